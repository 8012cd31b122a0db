"""The commands on jobs of the stack: their arguments and help. Each calls one function elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from yuan_cli.completion import complete_job
from yuan_cli.options import ClusterOption, ForceOption, JsonOption, ManifestArgument, OverridesArgument, cluster_of

SUBMIT_HELP = """Put a job or a pipeline on the stack's queue; `yuan up` starts the stack.

Prints the job's id. The same job that waits, runs or is done is not made anew.

\b
  yuan submit configs/pipelines/demo.yaml --watch
  yuan submit configs/jobs/pretrain-demo.yaml train.steps=50
"""

APPLY_HELP = """Show what a manifest would do (its jobs, on what, how long, what is there already), ask, and submit it.

\b
  yuan apply configs/pipelines/demo.yaml
  yuan apply configs/pipelines/demo.yaml pretrain.train.steps=50 --yes --watch
"""

RESUME_HELP = """Let a failed or cancelled job go on from its last checkpoint, under the cluster's topology of now.

\b
  yuan resume pretrain-demo-0f3
  yuan resume pretrain-demo-0f3 topology.parallel.pipeline=1 topology.parallel.stages=auto --watch
"""

JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="A job's id, or as much of its beginning as it takes.", autocompletion=complete_job
    ),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label; as many as you like.", show_default=False),
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Follow it to its end; Ctrl-C leaves it running.")]


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""

    @app.command("submit", help=SUBMIT_HELP)
    def submit_command(
        context: typer.Context,
        manifest: ManifestArgument,
        overrides: OverridesArgument = None,
        *,
        cluster: ClusterOption = None,
        watch: WatchOption = False,
        force: ForceOption = False,
        idempotency_key: Annotated[
            str, typer.Option(metavar="KEY", help="Two submits with the same key are one.", show_default=False)
        ] = "",
        priority: Annotated[
            int | None,
            typer.Option(metavar="N", help="-100 to 100; a higher one runs first.", show_default=False),
        ] = None,
        label: LabelOption = None,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.following import Submission, submit_manifest  # noqa: PLC0415
        from yuan_cli.labels import scheduling_overrides  # noqa: PLC0415

        options = Submission(force=force, idempotency_key=idempotency_key, watch=watch, as_json=json)
        given = [*(overrides or []), *scheduling_overrides(priority, label or [])]
        return submit_manifest(manifest, given, cluster_of(context, cluster), options)

    @app.command("apply", help=APPLY_HELP)
    def apply_command(
        context: typer.Context,
        manifest: ManifestArgument,
        overrides: OverridesArgument = None,
        *,
        cluster: ClusterOption = None,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
        watch: WatchOption = False,
    ) -> int:
        from yuan_cli.applying import apply_manifest  # noqa: PLC0415

        return apply_manifest(manifest, overrides or [], cluster_of(context, cluster), yes=yes, watch=watch)

    @app.command("jobs", help="List what was submitted, newest first.")
    def jobs_command(
        context: typer.Context,
        *,
        cluster: ClusterOption = None,
        state: Annotated[
            str | None, typer.Option(metavar="STATE", help="Only these: queued, running, failed …")
        ] = None,
        kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only these: pretrain, tokenize …")] = None,
        label: LabelOption = None,
        everything: Annotated[bool, typer.Option("--all", help="All of them, and the steps of pipelines.")] = False,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.jobs import Filter, print_jobs  # noqa: PLC0415
        from yuan_cli.labels import labels_of  # noqa: PLC0415

        wanted = Filter(state, kind, labels_of(label or []))
        return print_jobs(wanted, cluster_of(context, cluster), everything=everything, as_json=json)

    @app.command("logs", help="Print what a job's processes print.")
    def logs_command(
        context: typer.Context,
        job: JobArgument,
        *,
        # Without its -f, which for logs means what it means everywhere.
        cluster: Annotated[
            Path | None,
            typer.Option("--cluster", metavar="FILE", help="Where it runs: a cluster manifest.", show_default=False),
        ] = None,
        follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.jobs import print_logs  # noqa: PLC0415

        return print_logs(job, cluster_of(context, cluster), follow=follow, as_json=json)

    @app.command("cancel", help="End a job: at once where it waits, at its next safe point where it runs.")
    def cancel_command(
        context: typer.Context, job: JobArgument, *, cluster: ClusterOption = None, json: JsonOption = False
    ) -> int:
        from yuan_cli.jobs import cancel_job  # noqa: PLC0415

        return cancel_job(job, cluster_of(context, cluster), as_json=json)

    @app.command("resume", help=RESUME_HELP)
    def resume_command(
        context: typer.Context,
        job: JobArgument,
        overrides: Annotated[
            list[str] | None,
            typer.Argument(metavar="[topology.KEY=VALUE]…", help="What is to be otherwise.", show_default=False),
        ] = None,
        *,
        cluster: ClusterOption = None,
        watch: WatchOption = False,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.following import resume_and_follow  # noqa: PLC0415

        return resume_and_follow(job, overrides or [], cluster_of(context, cluster), watch=watch, as_json=json)

    @app.command("wait", help="Follow a job from its first event to its end; the exit code is the job's.")
    def wait_command(
        context: typer.Context,
        job: JobArgument,
        *,
        cluster: ClusterOption = None,
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but how it ended.")] = False,
        json: JsonOption = False,
    ) -> int:
        from yuan_cli.following import wait_for  # noqa: PLC0415

        return wait_for(job, cluster_of(context, cluster), as_json=json, quiet=quiet)

    del (
        apply_command,
        submit_command,
        jobs_command,
        logs_command,
        cancel_command,
        resume_command,
        wait_command,
    )  # typer keeps them
