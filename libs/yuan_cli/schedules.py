"""`yuan schedule`, `yuan schedules`, `yuan unschedule`: jobs that recur."""

import json
from collections.abc import Sequence
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from yuan_cli.options import ClusterOption, JsonOption, ManifestArgument, OverridesArgument, cluster_of

SCHEDULE_HELP = """Let a job or a pipeline run again and again, when its scheduling.cron says; under its own name.

\b
  yuan schedule configs/pipelines/demo.yaml 'scheduling.cron=0 3 1 * *' scheduling.timezone=Asia/Shanghai
  yuan schedules; yuan unschedule demo
"""


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""

    @app.command("schedule", help=SCHEDULE_HELP)
    def schedule_command(
        context: typer.Context,
        manifest: ManifestArgument,
        overrides: OverridesArgument = None,
        *,
        cluster: ClusterOption = None,
        json: JsonOption = False,
    ) -> int:
        return put(manifest, overrides or [], cluster_of(context, cluster), as_json=json)

    @app.command("schedules", help="List the jobs that recur.")
    def schedules_command(context: typer.Context, *, cluster: ClusterOption = None, json: JsonOption = False) -> int:
        return print_schedules(cluster_of(context, cluster), as_json=json)

    @app.command("unschedule", help="End a schedule; jobs that it has submitted go on.")
    def unschedule_command(
        context: typer.Context,
        name: Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule.")],
        *,
        cluster: ClusterOption = None,
    ) -> int:
        return remove(name, cluster_of(context, cluster))

    del schedule_command, schedules_command, unschedule_command  # typer keeps them


def put(path: Path, overrides: Sequence[str], cluster_path: Path | None, *, as_json: bool) -> int:
    """Makes a schedule and says when it comes first."""
    from yuan_jobs.client import JobClient  # noqa: PLC0415 - all of this loads gRPC
    from yuan_jobs.planning import check_order  # noqa: PLC0415
    from yuan_jobs.requests import request_of  # noqa: PLC0415
    from yuan_manifest import load_cluster, load_job, split_overrides  # noqa: PLC0415
    from yuan_stack.planning import steps_of  # noqa: PLC0415

    job_overrides, cluster_overrides = split_overrides(overrides)
    manifest = load_cluster(cluster_path, cluster_overrides)
    job = load_job(path, job_overrides)
    steps = steps_of(job, path, job_overrides, manifest)
    check_order(steps)
    with JobClient(manifest.cluster) as client:
        made = client.put_schedule(request_of(job, steps, manifest))
    if as_json:
        typer.echo(json.dumps(_facts(made), indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{made.name}: runs first at {_shown(made.next_run_at)} ({made.cron}, {made.timezone})")
    return 0


def print_schedules(cluster: Path | None, *, as_json: bool) -> int:
    """Lists schedules."""
    from yuan_jobs.client import JobClient  # noqa: PLC0415
    from yuan_manifest import load_cluster  # noqa: PLC0415
    from yuan_stack.tables import aligned  # noqa: PLC0415

    with JobClient(load_cluster(cluster).cluster) as client:
        found = client.schedules()
    if as_json:
        typer.echo(json.dumps([_facts(one) for one in found], indent=2, ensure_ascii=False))
    elif not found:
        typer.echo("no job recurs; yuan schedule MANIFEST makes one that does", err=True)
    else:
        rows = [
            (
                one.name,
                one.kind,
                f"{one.cron} {one.timezone}",
                _shown(one.next_run_at) if one.HasField("next_run_at") else "never",
                one.problem or one.last_job_id,
            )
            for one in found
        ]
        for line in aligned(("schedule", "kind", "when", "next", "last"), rows, right=()):
            typer.echo(line)
    return 0


def remove(name: str, cluster: Path | None) -> int:
    """Ends a schedule."""
    from yuan_jobs.client import JobClient  # noqa: PLC0415
    from yuan_manifest import load_cluster  # noqa: PLC0415

    with JobClient(load_cluster(cluster).cluster) as client:
        removed = client.delete_schedule(name)
    typer.echo(f"{removed.name}: recurs no more")
    return 0


def _facts(schedule: Any) -> dict[str, Any]:
    def iso(name: str) -> str | None:
        return getattr(schedule, name).ToDatetime(UTC).isoformat() if schedule.HasField(name) else None

    return {
        "name": schedule.name,
        "kind": schedule.kind,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "created": iso("created_at"),
        "next_run": iso("next_run_at"),
        "last_run": iso("last_run_at"),
        "last_job": schedule.last_job_id or None,
        "problem": schedule.problem or None,
    }


def _shown(moment: Timestamp) -> str:
    return f"{moment.ToDatetime(UTC):%Y-%m-%d %H:%M} UTC"
