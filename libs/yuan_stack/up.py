"""`yuan up`: starts a supervisor for what a cluster manifest names, or tells the one that runs what has changed.

Everything that can be known to be wrong is said before anything starts.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence, Set
from contextlib import suppress

from yuan_events import InputError, Interrupted, WorkFailed
from yuan_jobs.home import Home
from yuan_jobs.processes import StopRequest
from yuan_manifest import ClusterManifest
from yuan_stack.broker import end_left
from yuan_stack.folder import StackFolder, StackLock, digest, holder_of, last_line, open_log
from yuan_stack.leftovers import clear_left, wait_for_killed
from yuan_stack.managed import SERVER_GRACE_S, WORKER_GRACE_S
from yuan_stack.models import LoadWatch
from yuan_stack.narration import Narrator, Say, ended
from yuan_stack.processes import Change
from yuan_stack.stack import Stack, own_ports, state_of
from yuan_stack.state import Phase, ProcessRecord, ProcessState, StackState

UP_SECONDS = 180.0
"""How long processes may take to come up."""

END_SECONDS = WORKER_GRACE_S + SERVER_GRACE_S + 60.0
"""How long a stack may take to end."""

_COMING = frozenset({ProcessState.waiting, ProcessState.starting, ProcessState.stopping})
"""How a process stands that will be up; the last: its next one has another manifest's settings."""

_TRIES = 3
_TURN_S = 0.1


def up(manifest: ClusterManifest, say: Say, *, detach: bool = False, dry_run: bool = False) -> int:
    """Brings a stack up, or what runs of it to what the manifest says.

    Args:
        manifest: the cluster.
        say: takes the lines that the user reads.
        detach: return as soon as everything is up; otherwise stay, and end the stack when asked to stop.
        dry_run: only say what would happen.

    Returns:
        0.

    Raises:
        InputError: if something is wrong that can be known before a start: a port, a file, a service not installed.
        WorkFailed: if a process does not come up; the text has the last line of its log.
        Interrupted: if the user stopped it before all was up.
    """
    if dry_run:
        return _show_plan(planned(manifest), say)
    stack = Stack.of(manifest)
    stack.check_installed()
    Home.of(stack.manifest.cluster)
    stack.folder.make()
    with StopRequest(insistent=False) as stop:
        waited = False
        while not stop.requested():
            if (lock := StackLock.acquire(stack.folder)) is not None:
                return _start(stack, lock, say, stop, detach=detach)
            state = stack.running_state()
            if state is not None and state.phase is Phase.running:
                return _change(stack, state, say, stop)
            if not waited and state is not None:
                say("the stack that runs is being stopped; waiting for its end")
                waited = True
            time.sleep(_TURN_S)
    raise Interrupted("interrupted")


def planned(manifest: ClusterManifest) -> list[Change]:
    """Returns what `up` would do, and does nothing.

    Raises:
        InputError: as `up`.
    """
    stack = Stack.of(manifest)
    stack.check_installed()
    state = state_of(stack.folder, holder_of(stack.folder))
    found = stack.changes(state)
    stack.check(stack.starting(found), own_ports(state))
    return found


def _show_plan(found: Sequence[Change], say: Say) -> int:
    if not found:
        say("nothing would change")
    width = max((len(change.name) for change in found), default=0)
    for change in found:
        say(f"would {change.action:<7}  {change.name:<{width}}  {', '.join(change.reasons)}".rstrip())
    return 0


def _start(stack: Stack, lock: StackLock, say: Say, stop: StopRequest, *, detach: bool) -> int:
    """Starts a supervisor and waits until all is up, or in the foreground until all has ended."""
    folder = stack.folder
    handed_over = False
    try:
        wait_for_killed(folder)
        if not stack.plan.embedded_broker and end_left(folder):
            say("ended the broker that a killed stack had left")
        stack.check(stack.plan.processes)
        wanted = stack.write()
        folder.state.unlink(missing_ok=True)
        say(f"stack of {folder.home}; logs in {folder.logs}")
        supervisor = _spawn(folder, lock, detach=detach)
        lock.pass_on()
        handed_over = True
    finally:
        if not handed_over:
            lock.release()
    narrator = Narrator(say)
    try:
        _await_up(
            stack, wanted, {process.name for process in stack.plan.processes}, narrator, stop, supervisor=supervisor
        )
    except BaseException:
        _end(folder, supervisor, narrator)
        raise
    watch = LoadWatch(stack.manifest, say)
    watch.look()
    if detach:
        say("the stack is up; `yuan status` shows how it does, `yuan down` ends it")
        return 0
    say("the stack is up; Ctrl-C ends it")
    return _stay(folder, supervisor, narrator, stop, say=say, watch=watch)


def _spawn(folder: StackFolder, lock: StackLock, *, detach: bool) -> "subprocess.Popen[bytes]":
    log, _ = open_log(folder.log("supervisor"))
    companion = [] if detach else [str(os.getpid())]
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "yuan_stack", str(folder.home), str(lock.descriptor), *companion],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock.descriptor,),
            start_new_session=True,
        )
    finally:
        os.close(log)


def _await_up(
    stack: Stack,
    wanted: str,
    names: Set[str],
    narrator: Narrator,
    stop: StopRequest,
    *,
    supervisor: "subprocess.Popen[bytes] | None" = None,
) -> None:
    """Waits until the supervisor follows our manifest and these processes are up.

    Raises:
        WorkFailed: if one does not come up, or the supervisor is no more.
        Interrupted: if the user does not want to wait.
    """
    deadline = time.monotonic() + UP_SECONDS
    while not stop.requested():
        alive = holder_of(stack.folder) is not None if supervisor is None else supervisor.poll() is None
        state = stack.folder.read_state() if supervisor is not None else stack.running_state()
        if not alive or (state is not None and state.phase is Phase.stopping):
            line = last_line(stack.folder.log("supervisor"))
            raise WorkFailed("the stack was ended before all was up" + (f": {line}" if line else ""))
        if state is not None:
            narrator.tell(state)
            if state.manifest == wanted:
                awaited = [record for record in state.all if record.name in names or record is state.broker]
                for record in awaited:
                    _check_coming(stack.folder, record)
                up_now = {record.name for record in awaited if record.state is ProcessState.up}
                if names <= up_now and len(up_now) == len(awaited):
                    return
                if time.monotonic() > deadline:
                    late = next(record for record in awaited if record.state is not ProcessState.up)
                    raise _not_up(stack.folder, late, f"is not up after {UP_SECONDS:.0f} s")
            elif _digest_on_disk(stack.folder) != wanted:
                raise WorkFailed("another `yuan up` came after this one; `yuan status` shows what runs")
        time.sleep(_TURN_S)
    raise Interrupted("interrupted before all was up")


def _check_coming(folder: StackFolder, record: ProcessRecord) -> None:
    """Gives a process up that ended for bad input once, or for anything else three times."""
    if record.is_failing and (record.exit_code == InputError.exit_code or record.failures >= _TRIES):
        raise _not_up(folder, record, ended(record))


def _not_up(folder: StackFolder, record: ProcessRecord, what: str) -> WorkFailed:
    log = folder.log(record.name)
    line = "" if record.last_line and record.last_line in what else last_line(log)
    return WorkFailed(f"{record.name} {what}" + (f": {line}" if line else "") + f" (log: {log})")


def _digest_on_disk(folder: StackFolder) -> str:
    with suppress(OSError):
        return digest(folder.cluster.read_text(encoding="utf-8"))
    return ""


def _stay(
    folder: StackFolder,
    supervisor: "subprocess.Popen[bytes]",
    narrator: Narrator,
    stop: StopRequest,
    *,
    say: Say,
    watch: LoadWatch,
) -> int:
    """Tells what happens until the stack has ended, which a signal asks for."""
    passed_on = 0
    while (code := supervisor.poll()) is None:
        if stop.count > passed_on:
            passed_on += 1
            with suppress(ProcessLookupError):
                supervisor.terminate()
            if passed_on == 1:
                say("ending the stack; Ctrl-C once more hurries it")
        if (state := folder.read_state()) is not None:
            narrator.tell(state)
        if not passed_on:
            watch.look()
        time.sleep(_TURN_S)
    if code != 0:
        line = last_line(folder.log("supervisor"))
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended: {line}"
        raise WorkFailed(f"the supervisor was {how}; its processes end with it; start anew with: yuan up")
    say("the stack has ended")
    return 0


def _end(folder: StackFolder, supervisor: "subprocess.Popen[bytes]", narrator: Narrator) -> None:
    """Ends a stack that did not come up, in haste: nothing has been done in it yet."""
    deadline = time.monotonic() + END_SECONDS
    sent = 0
    while supervisor.poll() is None and time.monotonic() < deadline:
        if sent < 2:
            sent += 1
            supervisor.terminate()
        if (state := folder.read_state()) is not None:
            narrator.tell(state)
        time.sleep(_TURN_S)
    # A supervisor that had hardly begun could not clear up.
    clear_left(folder, lambda line: None)


def _change(stack: Stack, state: StackState, say: Say, stop: StopRequest) -> int:
    """Tells the supervisor what has changed and waits until that is up, with what another `yuan up` has begun."""
    found = stack.changes(state)
    coming = {record.name for record in state.all if record.state in _COMING and not record.is_failing}
    if not found:
        still = "it is still coming up" if coming else "nothing has changed"
        say(f"the stack of {stack.folder.home} runs already (pid {state.pid}); {still}")
        for record in state.all:
            if record.is_failing:
                say(f"{record.name} {ended(record)}")
        if coming:
            _await_up(stack, state.manifest, coming, Narrator(say, state), stop)
            say("the stack is up")
        return 0
    stack.check(stack.starting(found), own_ports(state))
    for change in found:
        say(f"{change.action:<7}  {change.name}  {', '.join(change.reasons)}".rstrip())
    wanted = stack.write()
    os.kill(state.pid, signal.SIGUSR1)
    names = {name for name in coming | {change.name for change in found} if stack.plan.find(name) is not None}
    _await_up(stack, wanted, names, Narrator(say, state), stop)
    say("the changes are up")
    return 0
