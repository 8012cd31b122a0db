"""The commands on what was made and kept: their arguments and help. Each calls one function elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from yuan_cli.completion import complete_artifact_or_job, complete_job
from yuan_cli.options import ClusterOption, JsonOption, cluster_of


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""

    @app.command("lineage", help="What an artifact was made from, and what was made from it.")
    def lineage_command(
        context: typer.Context,
        artifact: Annotated[
            str,
            typer.Argument(metavar="ARTIFACT", help="[KIND/]NAME[@VERSION].", autocompletion=complete_artifact_or_job),
        ],
        *,
        cluster: ClusterOption = None,
        picture: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Draw it too: PNG, SVG or PDF.", show_default=False)
        ] = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.lineage import print_lineage  # noqa: PLC0415

        return print_lineage(artifact, cluster_of(context, cluster), picture=picture, as_json=json)

    @app.command("diff", help="In what two jobs differ: manifest, topology, results, metrics.")
    def diff_command(
        context: typer.Context,
        first: Annotated[str, typer.Argument(metavar="JOB", autocompletion=complete_job, help="A job's id.")],
        second: Annotated[str, typer.Argument(metavar="JOB", autocompletion=complete_job, help="Another one's.")],
        *,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.comparing import print_difference  # noqa: PLC0415

        return print_difference(first, second, cluster_of(context, cluster), as_json=json)

    @app.command("gc", help="Remove old artifacts that nothing needs, old run folders and leftovers of killed jobs.")
    def gc_command(
        context: typer.Context,
        *,
        cluster: ClusterOption = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
        keep: Annotated[
            int | None,
            typer.Option(
                metavar="N",
                help="Newest versions of each artifact to keep; else cluster.retention.artifact_versions.",
                show_default=False,
            ),
        ] = None,
        days: Annotated[
            float | None,
            typer.Option(
                metavar="DAYS",
                help="For how long to keep run folders of ended jobs; else cluster.retention.run_days.",
                show_default=False,
            ),
        ] = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.garbage import print_garbage  # noqa: PLC0415

        return print_garbage(cluster_of(context, cluster), dry_run=dry_run, keep=keep, days=days, as_json=json)

    del lineage_command, diff_command, gc_command  # typer keeps them
