"""What a process that is started for a user owes them: to stop when asked, and to end when its parent has ended."""

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

PARENT_VARIABLE = "YUAN_PARENT_PID"
"""Environment variable with the process that a child is to end with."""

READY_VARIABLE = "YUAN_READY_FD"
"""Environment variable with a descriptor that a child writes to as soon as it is ready for work."""

_PR_SET_PDEATHSIG = 1
STOP_NOTICE = "stopping at the next safe point; once more stops at once"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_with_parent(parent: int) -> None:
    """Asks the system to kill this process as soon as its parent has ended, however it ended (Linux only).

    SIGKILL, since a signal that Python handles would wait for as long as the main thread is in a C++ library. What
    was running is found by the next run as after any crash.

    Args:
        parent: the process that started this one; if it is not our parent any more, this process ends now.
    """
    if sys.platform != "linux":
        return
    import ctypes  # noqa: PLC0415 - Linux only

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def parent_from_environment() -> int | None:
    """Returns the process that asked this one to end with it; its own children are not told."""
    value = os.environ.pop(PARENT_VARIABLE, "")
    return int(value) if value.isdigit() else None


def announce_ready() -> None:
    """Tells the process that started this one that it is ready for work; does nothing where nobody asked.

    A server is asked over gRPC whether it serves; a worker, which nobody can call, says so itself.
    """
    value = os.environ.pop(READY_VARIABLE, "")
    if value.isdigit():
        with suppress(OSError):
            os.write(int(value), b"ready\n")
        with suppress(OSError):
            os.close(int(value))


class StopRequest:
    """Turns Ctrl-C, SIGTERM and a closed terminal into a question that work asks now and then.

    The first signal makes `requested()` true, so that the work ends at its next safe point; the second one raises
    KeyboardInterrupt wherever the main thread is. A context manager; outside the main thread it does nothing.

    Attributes:
        count: signals that have come so far.
    """

    def __init__(self, notice: str = "", *, insistent: bool = True) -> None:
        """Args: notice: a line written to stderr at the first signal. insistent: False: the second raises nothing."""
        self._notice = notice
        self._insistent = insistent
        self._before: dict[signal.Signals, Any] = {}
        self.count = 0

    def requested(self) -> bool:
        """Says whether the user or the system wants the work to end."""
        return self.count > 0

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.count += 1
        if self.count > 1:
            if self._insistent:
                raise KeyboardInterrupt
        elif self._notice:
            with suppress(OSError):  # not print: the signal may have come in the middle of one
                os.write(2, f"\n{self._notice}\n".encode())

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # nohup and shells start background jobs with a signal ignored: that stays so.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._before.clear()
