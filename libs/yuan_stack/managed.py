"""One process of the stack: started, watched, started again when it ends unasked, and ended when it is asked to.

`poll` is called often and never waits. Children are started in the thread that calls it, which has to be one that lives
as long as they shall: the system ends them with the thread that started them.
"""

import os
import signal
import subprocess
import time
from concurrent.futures import Executor, Future
from contextlib import suppress

from yuan_events import InputError
from yuan_jobs.processes import PARENT_VARIABLE, READY_VARIABLE
from yuan_rpc import HTTP_SERVICES, Connection, HttpServer, RpcFailed, Security
from yuan_stack.folder import StackFolder, last_line, open_log
from yuan_stack.processes import ProcessPlan, Role
from yuan_stack.state import ProcessRecord, ProcessState

WORKER_GRACE_S = 180.0
"""How long a worker that was asked to stop may take: longer than the trainer gives its ranks to save a state."""

SERVER_GRACE_S = 45.0
"""How long a server may take: longer than it lets running calls go on."""

INSIST_GRACE_S = 10.0
"""How long either may take after it was told twice, before it is killed."""

LONGEST_WAIT_S = 30.0
"""How long a process that ends again and again waits at most before it is started anew."""

PEACE_S = 60.0
"""After so long without an ending, the next one counts as the first again."""

_PROBE_STARTING_S = 0.2
_PROBE_UP_S = 2.0
_PROBE_TIMEOUT_S = 1.5
_SILENT_AFTER = 5


class Managed:
    """A planned process and what became of it.

    Attributes:
        plan: what is run.
        state: how it stands.
        retired: it was asked to end and is not started again.
        replacement: what takes its place once it has ended.
    """

    def __init__(self, plan: ProcessPlan, folder: StackFolder, security: Security, executor: Executor) -> None:
        self.plan = plan
        self.state = ProcessState.waiting
        self.retired = False
        self._folder = folder
        self._executor = executor
        self._security = security
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | HttpServer | None = None
        self._probe: Future[bool] | None = None
        self._next_probe = 0.0
        self._misses = 0
        self._ready: int | None = None
        self._log_start = 0
        self._started = 0.0
        self._retry_at = 0.0
        self._since = time.time()
        self._restarts = 0
        self._failures = 0
        self._ending = ""
        self._exit_code = 0
        self._last_line = ""
        self._asked = 0
        self._deadline = float("inf")

    @property
    def is_alive(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def record(self) -> ProcessRecord:
        """Returns what is told about it."""
        waits = max(0.0, self._retry_at - self._started) if self.state is ProcessState.waiting else 0.0
        return ProcessRecord(
            name=self.plan.name,
            service=self.plan.service,
            role=self.plan.role,
            state=self.state,
            address=self.plan.address,
            pid=self._process.pid if self._process is not None else None,
            since=self._since,
            restarts=self._restarts,
            failures=self._failures,
            retry_seconds=waits,
            ending=self._ending,
            exit_code=self._exit_code,
            last_line=self._last_line,
            settings=self.plan.settings,
        )

    def poll(self, *, may_start: bool) -> None:
        """Takes notice of what happened since the last time.

        Args:
            may_start: whether what it needs is there: the broker, its port.
        """
        now = time.monotonic()
        if self._process is None:
            if self.state is ProcessState.waiting and may_start and now >= self._retry_at:
                self._start(now)
            return
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            self._reap(self._process, now)
        elif self._asked:
            if now > self._deadline:
                self.ask_to_end(self._asked + 1)
        else:
            self._look(now)

    def ask_to_end(self, times: int = 1) -> None:
        """Asks it to end: once, it may finish what it does; twice, at once; three times, it is killed."""
        self.retired = True
        if self._process is None:
            self.state = ProcessState.stopped
            return
        while self._asked < times:
            self._asked += 1
            self.state = ProcessState.stopping
            grace = WORKER_GRACE_S if self.plan.role is Role.worker else SERVER_GRACE_S
            self._deadline = time.monotonic() + (grace if self._asked == 1 else INSIST_GRACE_S)
            with suppress(ProcessLookupError):
                if self._asked <= 2:
                    os.kill(self._process.pid, signal.SIGTERM)
                else:
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _start(self, now: float) -> None:
        self._started, self._since = now, time.time()
        environment = {**os.environ, PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        inherited: list[int] = []
        if self.plan.role is Role.worker:
            self._ready, their_end = os.pipe()
            os.set_blocking(self._ready, False)
            environment[READY_VARIABLE] = str(their_end)
            inherited.append(their_end)
        try:
            if self.plan.role is Role.server:
                section = self.plan.section
                kind = HttpServer if self.plan.service in HTTP_SERVICES else Connection
                self._connection = kind(self.plan.service, section.host, section.port, self._security)
            log, self._log_start = open_log(self._folder.log(self.plan.name))
            try:
                self._process = subprocess.Popen(
                    self.plan.command(self._folder.cluster),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=inherited,
                    process_group=0,
                )
            finally:
                os.close(log)
        except InputError as error:  # a token file that is not there any more
            self._failed(now, error.exit_code, "not started", str(error))
            return
        except OSError as error:
            self._failed(now, 1, "not started", (error.strerror or str(error)).lower())
            return
        finally:
            for descriptor in inherited:
                os.close(descriptor)
        self.state = ProcessState.starting
        self._next_probe, self._misses = now, 0

    def _reap(self, process: "subprocess.Popen[bytes]", now: float) -> None:
        # The group is killed while its leader is not reaped yet: until then its number is no one else's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        self._process = None
        self._forget()
        self._since = time.time()
        if self._asked:
            self.state = ProcessState.stopped
            return
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._failed(now, code, ending, last_line(self._folder.log(self.plan.name), self._log_start))

    def _failed(self, now: float, code: int, ending: str, line: str) -> None:
        self._forget()
        self._ending, self._exit_code, self._last_line = ending, code, line
        if now - self._started > PEACE_S:
            self._failures = 0
        self._failures += 1
        self._restarts += 1
        self._started = now
        self._retry_at = now + min(LONGEST_WAIT_S, 2.0 ** (self._failures - 1))
        self.state = ProcessState.waiting

    def _look(self, now: float) -> None:
        """Finds out whether it is up."""
        if self.plan.role is Role.worker:
            if self._ready is not None:
                with suppress(BlockingIOError):
                    if os.read(self._ready, 64):
                        self.state = ProcessState.up
                    os.close(self._ready)
                    self._ready = None
            return
        if self._probe is not None and self._probe.done():
            self._misses = 0 if self._probe.result() else self._misses + 1
            self._probe = None
            if self._misses == 0:
                self.state = ProcessState.up
            elif self.state is ProcessState.up and self._misses >= _SILENT_AFTER:
                self.state = ProcessState.silent
            self._next_probe = now + (_PROBE_STARTING_S if self.state is ProcessState.starting else _PROBE_UP_S)
        if self._probe is None and now >= self._next_probe:
            self._probe = self._executor.submit(_serves, self._connection)

    def _forget(self) -> None:
        """Lets go of what belonged to a process that has ended."""
        self._probe = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None


def _serves(connection: Connection | HttpServer | None) -> bool:
    with suppress(RpcFailed, ValueError):  # ValueError: the channel was closed meanwhile
        return connection is not None and connection.is_serving(timeout=_PROBE_TIMEOUT_S)
    return False
