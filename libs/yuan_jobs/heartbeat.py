"""The thread that keeps a worker's lease while the work has the main one, and hears what is wanted meanwhile."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from yuan_events import YuanError
from yuan_jobs.claims import desired_of, renew
from yuan_jobs.records import Claim, WorkerIdentity
from yuan_jobs.registry import Registry, StaleAttemptError
from yuan_jobs.states import Desired

LOST_EXIT_CODE = 75
_LISTEN_SECONDS = 0.5


class StopReason(StrEnum):
    """Why an attempt is to end before its work is done."""

    CANCEL = "CANCEL"
    YIELD = "YIELD"
    LOST = "LOST"
    TIME = "TIME"


class Heartbeat:
    """Holds an attempt's lease from `with` to its end.

    A worker that has lost its lease has nothing to save: its children are killed at once, since they hold what the
    next worker needs (devices, the run folder), the work is asked to stop, and if it has not after one more lease
    this process ends. Lost is also a lease that could not be renewed for its whole length, the registry being away;
    but where the work is over and only its end is to be told, that is waited for.

    Attributes:
        reason: why the attempt is to end; None: it is not.
    """

    def __init__(
        self,
        registry: Registry,
        claim: Claim,
        worker: WorkerIdentity,
        lease_seconds: float,
        drain: threading.Event,
        *,
        time_limit_seconds: float | None = None,
    ) -> None:
        self._registry = registry
        self._claim = claim
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._drain = drain
        self._time_limit = time_limit_seconds
        self._end = threading.Event()
        self._work_over = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.reason: StopReason | None = None

    def should_stop(self) -> bool:
        """Says whether the work is to end; a drain is heard at once."""
        if self.reason is None and self._drain.is_set():
            self.reason = StopReason.YIELD
        return self.reason is not None

    def keep_telling(self) -> bool:
        """Says whether to go on telling the registry how the work ended; it is over."""
        self._work_over = True
        return not self._drain.is_set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        began = renewed = time.monotonic()
        while not self._end.wait(_LISTEN_SECONDS):
            moment = time.monotonic()
            if self._time_limit is not None and moment - began >= self._time_limit:
                self._out_of_time(moment - began - self._time_limit)
            try:
                if moment - renewed >= self._lease_seconds / 4:
                    renew(self._registry, self._claim, self._worker)
                    renewed = moment
                self._listen()
            except StaleAttemptError:
                break
            except YuanError:  # the registry is away; it may come back in time
                if moment - renewed >= self._lease_seconds and not self._work_over:
                    break
        else:
            return
        self._lost()

    def _out_of_time(self, over_seconds: float) -> None:
        """Asks the work to save what it has and end; what it started is killed where it has not after one lease."""
        self.reason = self.reason or StopReason.TIME
        if over_seconds >= self._lease_seconds and not self._work_over:
            kill_children()

    def _listen(self) -> None:
        match desired_of(self._registry, self._claim):
            case None:
                raise StaleAttemptError(f"job {self._claim.job_id}: attempt {self._claim.attempt} was lost")
            case Desired.CANCEL:
                self.reason = StopReason.CANCEL
            case Desired.YIELD:
                self.reason = self.reason or StopReason.YIELD
            case Desired.RUN:
                pass

    def _lost(self) -> None:
        self.reason = StopReason.LOST
        deadline = time.monotonic() + self._lease_seconds
        while not self._end.wait(0.2):
            kill_children()
            if time.monotonic() > deadline and not self._work_over:
                os._exit(LOST_EXIT_CODE)  # the work hears nothing; a new worker is started in our place


def kill_children() -> None:
    """Kills the processes that this one started, and those that they started (Linux only)."""
    for pid in descendants(os.getpid()):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int, parents: Callable[[], dict[int, int]] | None = None) -> list[int]:
    """Returns the processes below one, each after its parent."""
    parent_of = (parents or _parents)()
    found = [pid]
    for place in found:
        found.extend(child for child, parent in parent_of.items() if parent == place)
    return found[1:]


def _parents() -> dict[int, int]:
    """Returns the parent of every process that /proc shows."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    return parents
