"""The two pipes between a training run's parent and each of its ranks.

Down: heartbeats and the word `stop`. Up: lines of JSON, events and what becomes of the rank. A rank that has heard
nothing for one lease, or whose parent is gone, ends itself at once: no process outlives its run.

The wait counts slices of one second that passed while this process was running, not a clock: a run suspended in a
terminal (Ctrl-Z) and taken up again has lost no lease.
"""

import json
import os
import select
import threading
from dataclasses import dataclass
from typing import Any, Final

from yuan_events import Event, event_to_json

CONTROL_FD: Final = "YUAN_CONTROL_FD"
EVENTS_FD: Final = "YUAN_EVENTS_FD"
LEASE_SECONDS: Final = "YUAN_LEASE_SECONDS"
"""How long a silence of the parent a rank bears; a worker says so, in the foreground it is a minute."""
HEARTBEAT: Final = b"."
STOP: Final = b"S"
LOST_PARENT_EXIT_CODE: Final = 75


def borne_silence() -> int:
    """Returns for how many seconds a rank bears the silence of its parent."""
    return int(os.environ.get(LEASE_SECONDS, "60"))


@dataclass(frozen=True)
class RankReport:
    """What a rank says of itself, beside events.

    Attributes:
        state: `training` (the loop has begun), `done`, `stopped` (on request, at a state), `failed`.
        step: steps finished.
        reason: one line, where it failed.
        bad_input: whether the reason lies in what the user gave.
        hung: whether a step has hung, which another attempt may not do.
    """

    state: str
    step: int = 0
    reason: str = ""
    bad_input: bool = False
    hung: bool = False


def report_to_json(report: RankReport) -> str:
    """Returns the report as one line of JSON."""
    return json.dumps({"rank_report": vars(report)})


def report_from_json(line: str) -> RankReport | None:
    """Returns the report in a line, or None where the line is an event."""
    data: Any = json.loads(line)
    fields = data.get("rank_report") if isinstance(data, dict) else None
    return None if fields is None else RankReport(**fields)


class ParentLink:
    """A rank's end: takes heartbeats and the stop word in a thread of its own, sends events and reports."""

    def __init__(self, control_fd: int, events_fd: int) -> None:
        self._control_fd = control_fd
        self._events = os.fdopen(events_fd, "w", encoding="utf-8", buffering=1)
        self._stop = threading.Event()
        self._write_lock = threading.Lock()
        threading.Thread(target=self._listen, name="parent-heartbeat", daemon=True).start()

    @classmethod
    def from_environment(cls) -> "ParentLink":
        """Opens the pipes that the launcher left in the environment.

        Raises:
            KeyError: if this process was not started by the launcher.
        """
        return cls(int(os.environ[CONTROL_FD]), int(os.environ[EVENTS_FD]))

    def stop_requested(self) -> bool:
        """Tells whether the parent has asked to stop at the next step."""
        return self._stop.is_set()

    def emit(self, event: Event) -> None:
        """Sends an event up (an `EventSink`)."""
        self._send(event_to_json(event))

    def report(self, report: RankReport) -> None:
        """Sends a report up."""
        self._send(report_to_json(report))

    def _send(self, line: str) -> None:
        with self._write_lock:
            self._events.write(line + "\n")

    def _listen(self) -> None:
        silent_seconds = 0
        lease_seconds = borne_silence()
        while silent_seconds < lease_seconds:
            ready, _, _ = select.select([self._control_fd], [], [], 1.0)
            if not ready:
                silent_seconds += 1
                continue
            data = os.read(self._control_fd, 4096)
            if not data:
                break
            silent_seconds = 0
            if STOP in data:
                self._stop.set()
        # Not sys.exit: the main thread may hang in a collective whose other ranks are gone.
        os._exit(LOST_PARENT_EXIT_CODE)
