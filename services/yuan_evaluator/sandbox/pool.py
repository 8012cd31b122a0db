"""The evaluator's side of the sandbox: which one this machine allows, and many programs at a time in it.

A sandbox that is not a sandbox is refused: before the first program a probe is run in it that tries what is forbidden.
"""

import json
import os
import queue
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Self

from yuan_evaluator.sandbox.backends import Backend
from yuan_evaluator.sandbox.limits import Limits, Outcome, Verdict
from yuan_events import InputError, WorkFailed

SOCKET_VARIABLE = "YUAN_SANDBOX"
"""Environment variable: path of the socket of a sandbox in a container of its own."""

_MENDS = (
    "install bubblewrap, allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0), or run the sandbox in a container of its own and set "
    f"{SOCKET_VARIABLE} to its socket; evaluate.sandbox.unsafe=true runs programs with limits alone"
)

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[4]); from yuan_evaluator.sandbox.zygote import main; "
    "sys.stdin.close(); main()"
)

_PROBE = """
import os, socket
wrong = []
if os.geteuid() == 0: wrong.append("runs as root")
try:
    socket.socket()
    try:
        socket.create_connection(("192.0.2.1", 9), timeout=0.05)
    except TimeoutError:
        wrong.append("reaches the network")
    except OSError as error:
        if error.errno not in (1, 13, 99, 101): wrong.append("network: " + str(error))
except OSError:
    pass
try:
    open({file!r}).close()
    wrong.append("reads files of who runs it")
except OSError:
    pass
for folder in ("/", "/usr", "/etc", "/var", os.path.expanduser("~root")):
    try:
        name = os.path.join(folder, "yuan-sandbox-probe")
        open(name, "w").close()
    except OSError:
        continue
    os.unlink(name)
    wrong.append("writes to " + folder)
try:
    open("/etc/shadow").read()
    wrong.append("reads /etc/shadow")
except OSError:
    pass
for word in ("TOKEN", "SECRET", "HOME=/root"):
    if word in str(dict(os.environ)): wrong.append("sees the environment")
assert not wrong, ", ".join(wrong)
"""


class Sandbox:
    """Runs programs; a context manager, which ends its processes. Methods may be called by several threads."""

    def __init__(self, backend: Backend, socket_path: str | None = None, jobs: int | None = None) -> None:
        """Describes a sandbox; `open_sandbox` finds the one to use.

        Args:
            backend: how programs are confined.
            socket_path: of the container's sandbox, which decides that itself; None: here.
            jobs: programs at a time; None: as many as this process has processors.
        """
        self.backend = backend
        self.jobs = jobs or len(os.sched_getaffinity(0))
        self._socket_path = socket_path
        self._idle: queue.SimpleQueue[_Jailer] = queue.SimpleQueue()
        self._all: list[_Jailer] = []

    @property
    def name(self) -> str:
        """What a report calls it."""
        return "container" if self._socket_path else self.backend.value

    def run(self, program: str, limits: Limits) -> Verdict:
        """Runs one program.

        Raises:
            WorkFailed: if it cannot be confined, or the sandbox has gone away.
        """
        try:
            jailer = self._idle.get_nowait()
        except queue.Empty:
            jailer = _Jailer(self.backend, self._socket_path)
            self._all.append(jailer)
        try:
            answer = jailer.ask({"program": program, "limits": asdict(limits)})
        except BaseException:
            jailer.close()
            raise
        self._idle.put(jailer)
        if "refused" in answer:
            raise WorkFailed(f"sandbox ({self.name}): {answer['refused']}")
        return Verdict(Outcome(answer["outcome"]), answer["detail"], answer["output"], answer["seconds"])

    def map(
        self, programs: Iterable[str], limits: Limits, stop_if_asked: Callable[[], None] = lambda: None
    ) -> Iterator[Verdict]:
        """Yields the verdicts of programs in their order, `jobs` at a time."""
        with ThreadPoolExecutor(self.jobs) as threads:
            waiting = [threads.submit(self.run, program, limits) for program in programs]
            try:
                for future in waiting:
                    stop_if_asked()
                    yield future.result()
            finally:
                for future in waiting:
                    future.cancel()

    def probe(self) -> str:
        """Tries what is forbidden; returns why this is no sandbox, or nothing where it is one."""
        # There for certain: a machine may have no network, and its folders may be closed to who runs this.
        with NamedTemporaryFile(prefix="yuan-sandbox-") as file:
            try:
                verdict = self.run(_PROBE.format(file=file.name), Limits())
            except WorkFailed as error:
                return str(error)
        return "" if verdict.passed else f"sandbox ({self.name}): a program in it {verdict.detail}"

    def close(self) -> None:
        """Ends its processes."""
        for jailer in self._all:
            jailer.close()
        self._all.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_sandbox(*, unsafe: bool = False, backend: Backend | None = None, socket_path: str | None = None) -> Sandbox:
    """Returns the best sandbox that holds on this machine: a container's, bubblewrap's, the kernel's namespaces.

    Args:
        unsafe: take limits alone where nothing else holds.
        backend: this one or none.
        socket_path: of a container's sandbox; None: `YUAN_SANDBOX`, where it is set.

    Raises:
        InputError: if none holds, with the reasons and what can be done.
    """
    reasons: list[str] = []
    where = socket_path or os.environ.get(SOCKET_VARIABLE)
    if where:  # who names one wants that one
        candidates = [Sandbox(Backend.user, where)]
    elif backend is not None:
        candidates = [Sandbox(backend)]
    else:
        installed = [Backend.bubblewrap] if shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin") else []
        candidates = [Sandbox(kind) for kind in (*installed, Backend.namespaces)]
    for sandbox in candidates:
        reason = sandbox.probe()
        if not reason or sandbox.backend is Backend.none:
            return sandbox
        sandbox.close()
        reasons.append(reason)
    if unsafe:
        return Sandbox(Backend.none)
    raise InputError(f"generated programs cannot be confined here: {'; '.join(reasons)}; {_MENDS}")


class _Jailer:
    """A zygote of our own, or a connection to one in a container; one program at a time."""

    def __init__(self, backend: Backend, socket_path: str | None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if socket_path is not None:
            self._connection = socket.socket(socket.AF_UNIX)
            try:
                self._connection.connect(socket_path)
            except OSError as error:
                self._connection.close()
                reason = (error.strerror or str(error)).lower()
                raise WorkFailed(f"the sandbox at {socket_path} does not answer: {reason}") from None
        else:
            self._connection, theirs = socket.socketpair()
            services = str(Path(__file__).parents[2])
            arguments = [sys.executable, "-I", "-S", "-B", "-c", _BOOT]
            self._process = subprocess.Popen(
                [*arguments, str(theirs.fileno()), backend.value, str(os.getpid()), services],
                env={},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            theirs.close()
        self._answers = self._connection.makefile("rb")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            line = self._answers.readline()
        except OSError as error:
            raise WorkFailed(f"the sandbox has gone away: {error}") from None
        if not line:
            raise WorkFailed("the sandbox has gone away")
        return json.loads(line)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._answers.close()
        self._connection.close()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
