"""What a user reads while a stack comes up, runs and ends: a line for everything that has changed."""

from collections.abc import Callable

from yuan_stack.state import Phase, ProcessRecord, ProcessState, StackState

Say = Callable[[str], None]
"""Takes one line for the user."""


class Narrator:
    """Compares what a supervisor tells with what it told before."""

    def __init__(self, say: Say, before: StackState | None = None) -> None:
        """Args: say: takes the lines. before: what the user knows already."""
        self._say = say
        self._known = {} if before is None else {record.name: record for record in before.all}
        self._phase = Phase.running

    def tell(self, state: StackState) -> None:
        """Says what is new."""
        if state.phase is Phase.stopping and self._phase is not Phase.stopping:
            self._phase = state.phase
            workers = [record.name for record in state.processes if record.pid is not None and not record.address]
            self._say(f"stopping; {', '.join(workers)} may finish a step first" if workers else "stopping")
        width = max((len(record.name) for record in state.all), default=0)
        for record in state.all:
            before = self._known.get(record.name)
            if line := _line(record, before):
                self._say(f"{record.name:<{width}}  {line}")
            self._known[record.name] = record
        if state.phase is Phase.running:
            for name in self._known.keys() - {record.name for record in state.all}:
                self._say(f"{name:<{width}}  stopped")
                del self._known[name]


def _line(record: ProcessRecord, before: ProcessRecord | None) -> str:
    """Returns what is to be said of one process, empty if nothing is."""
    if record.restarts > (before.restarts if before is not None else 0):
        return f"{ended(record)}; starts again in {record.retry_seconds:.0f} s"
    if before is not None and (record.state, record.pid) == (before.state, before.pid):
        return ""
    place = f" at {record.address}" if record.address else ""
    lines = {
        ProcessState.up: f"up{place} (pid {record.pid})",
        ProcessState.silent: f"does not answer{place} (pid {record.pid})",
        ProcessState.stopped: "stopped",
    }
    return lines.get(record.state, "")


def ended(record: ProcessRecord) -> str:
    """Returns how a process last ended, `ended (exit code 2): the last line of its log`."""
    return f"ended ({record.ending})" + (f": {record.last_line}" if record.last_line else "")
