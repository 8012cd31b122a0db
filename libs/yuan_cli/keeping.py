"""The commands on what was made and kept: their arguments and help. Each calls one function elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from yuan_cli.completion import complete_artifact_or_job, complete_job
from yuan_cli.options import ClusterOption, JsonOption, cluster_of

BACKUP_HELP = """Write the registry (jobs, artifacts, schedules, deployments) into one file, while the stack goes on.

The same file fits SQLite and PostgreSQL and every later version. The store's and the runs' folders are not in it: copy
those with any tool, after the backup.
"""

RESTORE_HELP = """Make the registry what a backup holds: all of it or nothing. The stack must not run.

A registry with jobs or artifacts is replaced with --force alone.

\b
  yuan restore registry.backup
  yuan -f postgresql.yaml restore registry.backup      from a home on SQLite to one on PostgreSQL
"""


UPGRADE_HELP = """Bring the registry of a home of an older version to this one, after a backup of it as it was.

Without this the first command of the newer version does so, and says it, but makes no backup. The stack must not run.
Manifests, artifacts and checkpoints of all versions so far have one format and stay as they are.
"""


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

    @app.command("backup", help=BACKUP_HELP)
    def backup_command(
        context: typer.Context,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="To write: registry.backup.")],
        *,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.backup import write_backup  # noqa: PLC0415

        return write_backup(file, cluster_of(context, cluster), as_json=json)

    @app.command("restore", help=RESTORE_HELP)
    def restore_command(
        context: typer.Context,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="That `yuan backup` wrote.")],
        *,
        cluster: ClusterOption = None,
        force: Annotated[
            bool, typer.Option("--force", help="Replace the jobs and artifacts that the registry has now.")
        ] = False,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.backup import restore_backup  # noqa: PLC0415

        return restore_backup(file, cluster_of(context, cluster), force=force, as_json=json)

    @app.command("upgrade", help=UPGRADE_HELP)
    def upgrade_command(
        context: typer.Context,
        *,
        cluster: ClusterOption = None,
        backup: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Where to; else a new file in HOME/backups.", show_default=False),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.upgrading import upgrade_home  # noqa: PLC0415

        return upgrade_home(cluster_of(context, cluster), backup=backup, dry_run=dry_run, as_json=json)

    del lineage_command, diff_command, gc_command, backup_command, restore_command, upgrade_command  # typer keeps them
