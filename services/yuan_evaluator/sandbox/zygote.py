"""The jailer: a small process of stdlib alone, with an empty environment, that runs one program after the other.

It speaks JSON lines over a socket: `{"program", "limits"}` in, `{"outcome", "detail", "output", "seconds"}` out, or
`{"refused"}` where a program could not be confined. It is started by `pool.py`, and by `server.py` in a container.
"""

import json
import os
import secrets
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from yuan_evaluator.sandbox import namespaces
from yuan_evaluator.sandbox.backends import FIRST_USER, Backend, Ports, start
from yuan_evaluator.sandbox.limits import Limits, Outcome

KEPT_OUTPUT = 1 << 14
"""Bytes of a program's output that are kept."""

_LOOK_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> NoReturn:
    """Serves the connection whose descriptor is the first argument, confined as the second says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    namespaces.die_with_parent(int(sys.argv[3]))
    serve(connection, Backend(sys.argv[2]))
    sys.exit(0)


def serve(connection: socket.socket, backend: Backend) -> None:
    """Answers requests until the other side closes."""
    namespaces.hide_memory()
    namespaces.adopt_orphans()
    connection.set_inheritable(False)
    with connection.makefile("rb") as requests:
        for line in requests:
            try:
                asked = json.loads(line)
                answer = run(asked["program"], Limits(**asked["limits"]), backend)
            except (OSError, ValueError, KeyError, TypeError) as error:
                answer = {"refused": " ".join(f"{type(error).__name__}: {error}".split())}
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                return


def run(program: str, limits: Limits, backend: Backend) -> dict[str, Any]:
    """Runs one program to its end, and ends all that it has started.

    Returns:
        The fields of a `Verdict`; or `refused` with the reason where it could not be confined, and was not run.
    """
    word = secrets.token_hex(16).encode()
    source = os.memfd_create("program", os.MFD_CLOEXEC)
    with os.fdopen(source, "wb", closefd=False) as file:
        file.write(word + b"\n" + program.encode("utf-8", "surrogatepass"))
    os.lseek(source, 0, os.SEEK_SET)
    pipes = [os.pipe() for _ in range(3)]
    ports = Ports(source, *(pipe[1] for pipe in pipes))
    zygote = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            for number, _ in pipes:
                os.close(number)
            start(backend, limits, ports, zygote)
        except BaseException as error:  # noqa: BLE001 - a child says what went wrong, and never goes on as the zygote
            with suppress(OSError):
                os.write(ports.setup, " ".join(str(error).split()).encode("utf-8", "replace"))
        os._exit(97)
    for number in (source, *(pipe[1] for pipe in pipes)):
        os.close(number)
    output, result, setup = (pipe[0] for pipe in pipes)
    try:
        began = time.monotonic()
        kept, ended = _watch(pid, output, limits, backend)
        seconds = time.monotonic() - began
        end_all(backend)
        for number in (output, result, setup):
            os.set_blocking(number, False)
        said, refused = _read(result), _read(setup)
    finally:
        for number in (output, result, setup):
            os.close(number)
    if refused:
        return {"refused": refused.decode("utf-8", "replace")}
    if isinstance(ended, int) and not said and ended == 1 and backend is Backend.bubblewrap and b"bwrap:" in kept:
        return {"refused": " ".join(kept.decode("utf-8", "replace").split())[:300]}
    outcome, detail = _judged(said, word, ended, limits)
    text = kept.decode("utf-8", "replace")
    return {"outcome": outcome, "detail": detail, "output": text, "seconds": round(seconds, 4)}


def _judged(said: bytes, word: bytes, ended: int | Outcome, limits: Limits) -> tuple[Outcome, str]:
    if isinstance(ended, Outcome):
        words = {
            Outcome.timeout: f"still running after {limits.wall_seconds:g} s",
            Outcome.memory: f"more than {limits.memory_mib} MiB in all its processes",
            Outcome.output: f"printed more than {limits.output_mib} MiB",
        }
        return ended, words[ended]
    if said == word:
        return Outcome.passed, ""
    if said.startswith(b"failed "):
        detail = said.removeprefix(b"failed ").decode("utf-8", "replace")
        return (Outcome.memory if detail.startswith("MemoryError") else Outcome.failed), detail
    number = -ended if ended < 0 else max(0, ended - 128)
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return Outcome.timeout, f"more than {limits.cpu_seconds} s of processor time"
    with suppress(ValueError):
        return Outcome.failed, f"ended by {signal.Signals(number).name}"
    return Outcome.failed, f"ended with exit code {ended} before its last line"


def _watch(pid: int, output: int, limits: Limits, backend: Backend) -> tuple[bytes, int | Outcome]:
    """Waits for a program's end or the first limit that it passes; returns what it printed, and how it ended."""
    kept, total = bytearray(), 0
    deadline = time.monotonic() + limits.wall_seconds
    look = time.monotonic() + _LOOK_S
    child = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(child, select.POLLIN)
    poll.register(output, select.POLLIN)
    try:
        while True:
            now = time.monotonic()
            if now >= deadline:
                return bytes(kept), Outcome.timeout
            if now >= look:
                look = now + _LOOK_S
                if _resident(backend) > limits.memory_mib << 20:
                    return bytes(kept), Outcome.memory
            ready = dict(poll.poll(1000 * (min(deadline, look) - now)))
            if output in ready:
                data = os.read(output, 1 << 16)
                if not data:
                    poll.unregister(output)
                total += len(data)
                kept += data[: max(0, KEPT_OUTPUT - len(kept))]
                if total > limits.output_mib << 20:
                    return bytes(kept), Outcome.output
            elif child in ready:
                return bytes(kept), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(child)


def _read(number: int) -> bytes:
    with suppress(BlockingIOError):
        return os.read(number, 1 << 12)
    return b""


def _members(backend: Backend) -> set[int]:
    """Returns all processes below the zygote; in a container also those that ran away, by their user."""
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        with suppress(OSError, ValueError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                children = [int(word) for word in (thread / "children").read_text().split()]
                waiting += [child for child in children if child not in found]
                found.update(children)
    if backend is Backend.user:
        user = FIRST_USER + os.getpid()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if entry.stat().st_uid == user:
                        found.add(int(entry.name))
    return found


def _resident(backend: Backend) -> int:
    """Returns the memory that the program's processes hold, in bytes; what they share is counted once a process."""
    total = 0
    for pid in _members(backend):
        with suppress(OSError, ValueError, IndexError):
            _, resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[:3]
            total += (int(resident) - int(shared)) * _PAGE
    return total


def end_all(backend: Backend) -> None:
    """Kills whatever is left of a program, and removes what it has left in a container's temporary folders."""
    while members := _members(backend):
        if backend is Backend.user:
            _as_user(lambda: os.kill(-1, signal.SIGKILL))
        for pid in members:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)
    if backend is Backend.user:
        _as_user(_remove_own)
    elif backend is Backend.none:
        _remove_own()


def _as_user(do: Any) -> None:
    """Does something as the program's user, in a child."""
    user = FIRST_USER + os.getpid()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            namespaces.become(user)
            do()
        os._exit(0)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _remove_own() -> None:
    import shutil  # noqa: PLC0415 - only here

    uid, prefix = os.geteuid(), f"program-{os.geteuid()}-"
    for folder in ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                mine = uid >= FIRST_USER and entry.stat(follow_symlinks=False).st_uid == uid
                if mine or entry.name.startswith(prefix):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        with suppress(OSError):
                            os.unlink(entry.path)  # noqa: PTH108
