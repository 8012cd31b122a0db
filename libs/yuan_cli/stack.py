"""`yuan up`, `yuan down`, `yuan status`: the stack of a cluster manifest."""

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from yuan_cli.options import ClusterOption, JsonOption, cluster_of

if TYPE_CHECKING:
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


def add_commands(app: typer.Typer) -> None:
    """Adds the commands."""

    @app.command("up", help=UP_HELP)
    def up_command(
        context: typer.Context,
        *,
        cluster: ClusterOption = None,
        detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is up.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would happen.")] = False,
    ) -> int:
        from yuan_manifest import load_cluster  # noqa: PLC0415
        from yuan_stack.up import up  # noqa: PLC0415

        return up(load_cluster(cluster_of(context, cluster)), _say, detach=detach, dry_run=dry_run)

    @app.command("down", help=DOWN_HELP)
    def down_command(context: typer.Context, *, cluster: ClusterOption = None) -> int:
        from yuan_manifest import load_cluster  # noqa: PLC0415
        from yuan_stack.down import down  # noqa: PLC0415

        return down(load_cluster(cluster_of(context, cluster)), _say)

    @app.command("status", help=STATUS_HELP)
    def status_command(context: typer.Context, *, cluster: ClusterOption = None, json: JsonOption = False) -> int:
        from yuan_manifest import load_cluster  # noqa: PLC0415
        from yuan_stack.status import status_of  # noqa: PLC0415

        return _print_status(status_of(load_cluster(cluster_of(context, cluster))), as_json=json)

    del up_command, down_command, status_command  # typer keeps them


def _say(line: str) -> None:
    """Writes a line at once: what waits in a pipe's buffer tells nobody how the stack does."""
    import sys  # noqa: PLC0415

    typer.echo(line)
    sys.stdout.flush()


def _print_status(status: "StackStatus", *, as_json: bool) -> int:
    code = 0 if status.is_up else 1
    if as_json:
        typer.echo(json.dumps(status.to_plain(), indent=2))
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
