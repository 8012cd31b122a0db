"""`yuan up`, `yuan down`, `yuan status`, `yuan doctor`: the stack of a cluster manifest."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from yuan_cli.options import ClusterOption, JsonOption, cluster_of
from yuan_events import InputError

if TYPE_CHECKING:
    from yuan_manifest import ClusterManifest
    from yuan_stack.status import BrokerStatus, ProcessStatus, StackStatus

UP_HELP = """Start the stack that a cluster manifest names: its broker, its services' servers and workers.

Stays and shows what happens until Ctrl-C, which ends the stack; --detach returns as soon as everything is up.
With a stack that runs already: restarts what the manifest has changed, and nothing else.

\b
  yuan up                                      this machine, in this terminal
  yuan up --detach                             in the background; `yuan down` ends it
  yuan up -f mine.yaml --dry-run               what would be started, restarted, stopped
"""

DOWN_HELP = """End the stack: workers give their jobs back at the next safe point, then everything ends.

What was made and the logs stay; jobs that were at work go on with the next `yuan up`.
"""

STATUS_HELP = """Show how the stack does: each process, what its server answers, the broker and its queues.

Exit code 0 if everything is up, 1 if something is not.
"""

DOCTOR_HELP = """Look for what is wrong with this machine and its stack, and say how to mend it; changes nothing.

A line a check: Python and packages, compiler, home, token, store, disk, broker, registry, ports, servers, workers,
versions, clocks, GPUs. Exit code 0 if all is well, 1 if something is wrong.
"""


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""

    @app.command("up", help=UP_HELP)
    def up_command(
        context: typer.Context,
        *,
        cluster: ClusterOption = None,
        detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is up.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
        json: Annotated[
            bool, typer.Option("--json", help="Print JSON at the end, for programs; the lines go to stderr.")
        ] = False,
    ) -> int:
        from yuan_manifest import load_cluster  # noqa: PLC0415
        from yuan_stack.up import up  # noqa: PLC0415

        if json and not detach and not dry_run:
            raise InputError("yuan up --json: stays until the stack has ended; add --detach or --dry-run")
        manifest = load_cluster(cluster_of(context, cluster))
        if not json:
            return up(manifest, _say, detach=detach, dry_run=dry_run)
        return _plan_as_json(manifest) if dry_run else _up_as_json(manifest)

    @app.command("down", help=DOWN_HELP)
    def down_command(context: typer.Context, *, cluster: ClusterOption = None, json: JsonOption = False) -> int:
        from yuan_manifest import load_cluster  # noqa: PLC0415
        from yuan_stack.down import down  # noqa: PLC0415
        from yuan_stack.processes import with_absolute_paths  # noqa: PLC0415

        manifest = load_cluster(cluster_of(context, cluster))
        found = down(manifest, _note if json else _say)
        if json:
            _print_json({"home": with_absolute_paths(manifest).cluster.home, "found": found})
        return 0

    @app.command("status", help=STATUS_HELP)
    def status_command(context: typer.Context, *, cluster: ClusterOption = None, json: JsonOption = False) -> int:
        from yuan_manifest import load_cluster  # noqa: PLC0415
        from yuan_stack.status import status_of  # noqa: PLC0415

        return _print_status(status_of(load_cluster(cluster_of(context, cluster))), as_json=json)

    @app.command("doctor", help=DOCTOR_HELP)
    def doctor_command(context: typer.Context, *, cluster: ClusterOption = None, json: JsonOption = False) -> int:
        from yuan_cli.doctor import print_diagnosis  # noqa: PLC0415

        return print_diagnosis(cluster_of(context, cluster), as_json=json)

    del up_command, down_command, status_command, doctor_command  # typer keeps them


def _say(line: str) -> None:
    """Writes a line at once: what waits in a pipe's buffer tells nobody how the stack does."""
    import sys  # noqa: PLC0415

    typer.echo(line)
    sys.stdout.flush()


def _note(line: str) -> None:
    """Writes a line beside the JSON of stdout."""
    typer.echo(line, err=True)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


def _plan_as_json(manifest: "ClusterManifest") -> int:
    from yuan_stack.up import planned  # noqa: PLC0415

    _print_json([asdict(change) for change in planned(manifest)])
    return 0


def _up_as_json(manifest: "ClusterManifest") -> int:
    """Brings a stack up and prints how it stands then, as `yuan status` does."""
    from yuan_stack.status import status_of  # noqa: PLC0415
    from yuan_stack.up import up  # noqa: PLC0415

    code = up(manifest, _note, detach=True)
    _print_json(status_of(manifest).to_plain())
    return code


def _print_status(status: "StackStatus", *, as_json: bool) -> int:
    code = 0 if status.is_up else 1
    if as_json:
        _print_json(status.to_plain())
        return code
    if status.is_down:
        typer.echo(f"nothing runs in {status.home}; start the stack with: yuan up")
        return code
    from yuan_stack.tables import aligned  # noqa: PLC0415

    phase = "not started here" if status.phase is None else f"{status.phase} (pid {status.pid})"
    typer.echo(f"stack of {status.home}: {phase}")
    rows = [_row(process) for process in status.processes]
    if status.phase is not None or not status.broker.embedded:
        rows.insert(0, _broker_row(status.broker))
    for line in aligned(("process", "state", "at", "pid", "for", "restarts"), rows, right=("pid", "for", "restarts")):
        typer.echo(line)
    if status.jobs:
        typer.echo(f"jobs: {', '.join(f'{count} {state.lower()}' for state, count in status.jobs.items())}")
    for model in status.models:
        typer.echo(f"model {model}")
    if status.broker.queues:
        waiting = ", ".join(f"{service} {count}" for service, count in status.broker.queues.items())
        typer.echo(f"messages in the queues: {waiting}")
    for process in status.processes:
        if process.last_line and not process.is_up:
            typer.echo(f"{process.name}: {process.last_line}")
    return code


def _row(process: "ProcessStatus") -> tuple[str, ...]:
    state = process.state.value if process.state is not None else ""
    if process.health is not None and process.state in {None, "up", "silent"}:
        state = process.health.value
    pid = "" if process.pid is None else str(process.pid)
    lasting = "" if process.since is None else _duration(time.time() - process.since)
    restarts = str(process.restarts) if process.state is not None else ""
    return process.name, state, process.address, pid, lasting, restarts


def _broker_row(broker: "BrokerStatus") -> tuple[str, ...]:
    pid = "" if broker.pid is None else str(broker.pid)
    restarts = str(broker.restarts) if broker.embedded else ""
    return "broker", "up" if broker.answers else "no answer", broker.address, pid, "", restarts


def _duration(seconds: float) -> str:
    """Returns `12 s`, `3 min`, `5 h`, `2 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
