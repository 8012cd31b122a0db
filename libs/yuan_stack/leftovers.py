"""What a stack that was killed has left, and its end."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from yuan_stack.broker import end_left
from yuan_stack.folder import StackFolder, StackLock
from yuan_stack.narration import Say

_LAST_BREATH_SECONDS = 10.0


def clear_left(folder: StackFolder, say: Say) -> bool:
    """Ends and clears what a supervisor that was killed has left; returns whether there was anything."""
    if not folder.path.is_dir() or (lock := StackLock.acquire(folder)) is None:
        return False
    try:
        left = folder.state.exists() or folder.cluster.exists()
        wait_for_killed(folder)
        if end_left(folder):
            say("ended the broker that a killed stack had left")
            left = True
        folder.clear()
        return left
    finally:
        lock.release()


def wait_for_killed(folder: StackFolder) -> None:
    """Waits for processes of a supervisor that was killed: the system ends them, which takes a moment."""
    state = folder.read_state()
    wait_for_end([] if state is None else [record.pid for record in state.processes if record.pid is not None])


def wait_for_end(pids: Iterable[int]) -> None:
    """Waits for processes that are about to end, ten seconds at most: their numbers may be others' by then."""
    deadline = time.monotonic() + _LAST_BREATH_SECONDS
    waiting = list(pids)
    while waiting and time.monotonic() < deadline:
        waiting = [pid for pid in waiting if _exists(pid)]
        time.sleep(0.02)


def _exists(pid: int) -> bool:
    """Whether there is such a process of ours; one that has ended and that its parent did not notice is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # the latter: another user's by now
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # no such file on systems other than Linux
        return not Path("/proc/self/stat").exists()
