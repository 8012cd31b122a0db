"""Runs one service's process to its end and leaves nothing of it behind, whatever happens to it or to us."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from yuan_events import InputError, Interrupted, WorkFailed
from yuan_jobs.home import HomeLock
from yuan_jobs.processes import PARENT_VARIABLE, StopRequest

STOP_GRACE_S = 150.0
"""How long a service that was asked to stop may take: longer than the trainer gives its ranks to save a state."""

INSIST_GRACE_S = 10.0
"""How long it may take after it was told twice, before it is killed."""

_POLL_S = 0.05


def run_service(service: str, arguments: Sequence[str], stop: StopRequest, lock: HomeLock | None = None) -> int:
    """Runs `python -m yuan_<service> ARGUMENTS` with our stdout and stderr, and waits for it.

    It has a process group of its own, so that Ctrl-C in the terminal reaches it through us, once, as SIGTERM: the
    first asks it to stop at a safe point, the second insists, the third kills. Where it dies, so does its group.

    Args:
        service: the service's name.
        arguments: after the module's name.
        stop: entered by the caller, with `insistent=False`.
        lock: the home's lock, which the child is to hold too.

    Returns:
        Its exit code; where it is not 0, it has said why.

    Raises:
        InputError: if the service is not installed.
        Interrupted: if it was asked to stop and could not say so itself, or was not started for that.
        WorkFailed: if a signal that we did not send ended it.
    """
    if importlib.util.find_spec(f"yuan_{service}") is None:
        raise InputError(
            f"yuan_{service} is not installed here; `make install`, or pip install 'yuan-stack[{service}]'"
        )
    if stop.requested():
        raise Interrupted("interrupted")
    environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(
        [sys.executable, "-m", f"yuan_{service}", *arguments],
        env=environment if lock is None else environment | lock.environment(),
        pass_fds=() if lock is None else (lock.descriptor,),
        stdin=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        _wait(process.pid, stop)
    finally:
        # The group is killed while its leader is not reaped yet: until then its number is no one else's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    if code < 0:
        if sys.stdout.isatty():  # it could not give back the cursor that its progress bars hide
            sys.stdout.write("\x1b[?25h")
        if stop.requested():
            raise Interrupted("interrupted")
        name = signal.Signals(-code).name
        hint = " (is the memory full?)" if code == -signal.SIGKILL else ""
        raise WorkFailed(f"yuan_{service} was ended by {name}{hint}; run it again to go on")
    return code


def _wait(pid: int, stop: StopRequest) -> None:
    """Waits until a child has ended, without reaping it, and passes on what stops it."""
    passed_on = 0
    deadline = float("inf")
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        wanted = max(stop.count, passed_on + 1 if time.monotonic() > deadline else 0)
        if wanted > passed_on:
            passed_on += 1
            deadline = time.monotonic() + (STOP_GRACE_S if passed_on == 1 else INSIST_GRACE_S)
            with suppress(ProcessLookupError):
                if passed_on <= 2:
                    os.kill(pid, signal.SIGTERM)
                else:
                    os.killpg(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
