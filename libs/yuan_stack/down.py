"""`yuan down`: ends a home's stack, and what a stack that was killed has left."""

import os
import signal
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from yuan_events import Interrupted, WorkFailed
from yuan_jobs.processes import StopRequest
from yuan_manifest import ClusterManifest
from yuan_stack.folder import StackFolder, holder_of
from yuan_stack.leftovers import clear_left, wait_for_end
from yuan_stack.narration import Narrator, Say
from yuan_stack.processes import with_absolute_paths
from yuan_stack.up import END_SECONDS

_TURN_S = 0.1


class Found(StrEnum):
    """What there was to end."""

    running = "running"
    killed = "killed"
    nothing = "nothing"


def down(manifest: ClusterManifest, say: Say) -> Found:
    """Ends the stack of a cluster's home and waits for that; logs and the broker's data stay.

    Args:
        manifest: the cluster; only its home counts.
        say: takes the lines that the user reads.

    Returns:
        What there was; of all three nothing runs any more.

    Raises:
        WorkFailed: if it does not end.
        Interrupted: if the user does not want to wait; it goes on ending.
    """
    folder = StackFolder(Path(with_absolute_paths(manifest).cluster.home))
    with StopRequest(insistent=False) as stop:
        if holder_of(folder) is not None:
            _end_running(folder, say, stop)
            say(f"the stack of {folder.home} has ended")
            return Found.running
        if clear_left(folder, say):
            say(f"the stack of {folder.home} had been killed; nothing of it runs any more")
            return Found.killed
        say(f"nothing runs in {folder.home}")
        return Found.nothing


def _end_running(folder: StackFolder, say: Say, stop: StopRequest) -> None:
    narrator = Narrator(say, folder.read_state())
    deadline = time.monotonic() + END_SECONDS
    asked: int | None = None
    while (holder := holder_of(folder)) is not None:
        if asked is not None and holder.pid != asked:
            break  # that one has ended, and somebody brings up the next already
        if asked is None and holder.pid is not None:
            asked = holder.pid
            with suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGTERM)
                os.kill(holder.pid, signal.SIGCONT)  # one that was stopped in a terminal would never hear of it
        if (state := folder.read_state()) is not None and state.pid == holder.pid:
            narrator.tell(state)
        if stop.requested():
            raise Interrupted("interrupted; the stack goes on ending")
        if time.monotonic() > deadline:
            raise WorkFailed(f"the supervisor (pid {holder.pid}) does not end; end it with: kill -9 {holder.pid}")
        time.sleep(_TURN_S)
    if asked is not None:
        wait_for_end([asked])
