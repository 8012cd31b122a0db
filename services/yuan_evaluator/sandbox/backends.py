"""Four ways to confine a program; each is entered in a child of the zygote and ends in the interpreter.

`namespaces`: the kernel's, by `namespaces.py`. `bubblewrap`: the same by `bwrap`. `user`: inside a container that has
no network and a read-only root already, a user id of its own. `none`: limits alone, for who says that it must be so.
"""

import os
import resource
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from yuan_evaluator.sandbox import namespaces, seccomp
from yuan_evaluator.sandbox.limits import Limits
from yuan_evaluator.sandbox.program import SOURCE

FIRST_USER = 2_000_000_000
"""User ids above it are nobody's; a zygote takes one by its own number."""

_HELPERS = 4
"""Processes of a jail besides the program's."""

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0"}  # noqa: S108


class Backend(StrEnum):
    """How programs are confined."""

    namespaces = "namespaces"
    bubblewrap = "bubblewrap"
    user = "user"
    none = "none"


@dataclass
class Ports:
    """Descriptors: the program, where it prints, where it says how it ended, where a failed setup is told."""

    program: int
    output: int
    result: int
    setup: int


def start(backend: Backend, limits: Limits, ports: Ports, zygote: int) -> NoReturn:
    """Runs the program in a confined process of this child, or as this child; does not return.

    Args:
        backend: how.
        limits: of the program.
        ports: its descriptors.
        zygote: process id of our parent.
    """
    namespaces.die_with_parent(zygote)
    user = FIRST_USER + zygote
    if backend is Backend.bubblewrap:
        _bubblewrap(limits, ports, user)
    if backend is not Backend.namespaces:
        os.setsid()
        _run(limits, ports, user if backend is Backend.user else None)
    namespaces.unshare()
    me = os.getpid()
    first = os.fork()
    if first:
        _close_all()
        os._exit(_status_of(first))
    namespaces.die_with_parent(0 if os.getppid() == 0 else me)
    namespaces.build_root(view(), 2 * limits.file_mib)
    program = os.fork()
    if program == 0:
        os.setsid()
        _run(limits, ports, user)
    _close_all()
    namespaces.hide_memory()
    while True:  # process 1 takes in what the program leaves behind, and takes it along when it ends
        pid, status = os.wait()
        if pid == program:
            os._exit(_code(status))


def view() -> list[str]:
    """Returns what of the host a program sees: the system's libraries and this Python's."""
    return ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", str(Path(sys.base_prefix).resolve())]


def interpreter() -> str:
    """Returns the Python that programs run in: the one below a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _arguments(*more: str) -> list[str]:
    return [interpreter(), "-I", "-S", "-B", "-c", SOURCE, *more]


def _run(limits: Limits, ports: Ports, user: int | None) -> NoReturn:
    """Limits this process, gives up its rights and becomes the program."""
    os.environ.clear()
    if user is not None:
        namespaces.become(user)
    folder = "/tmp"  # noqa: S108
    os.umask(0o077)
    if user is None or os.getpid() != 1:
        folder = _folder(folder)
    os.chdir(folder)
    _place(ports)
    limit(limits)
    seccomp.install()
    os.execve(interpreter(), _arguments(), {**_ENVIRONMENT, "HOME": folder, "TMPDIR": folder})  # noqa: S606


def _folder(parent: str) -> str:
    path = f"{parent}/program-{os.geteuid()}-{os.getpid()}"
    Path(path).mkdir(mode=0o700)
    return path


def _bubblewrap(limits: Limits, ports: Ports, user: int) -> NoReturn:
    shown = [word for path in view() if Path(path).exists() for word in _bind(path)]
    if os.geteuid() == 0:  # as root its namespace would map to root, which no limit of processes holds for
        namespaces.become(user)
    program = seccomp.filter_program()
    filtered: list[str] = []
    _place(ports)
    if program is not None:
        number = os.memfd_create("filter", 0)
        os.write(number, program)
        os.lseek(number, 0, os.SEEK_SET)
        os.set_inheritable(number, True)
        filtered = ["--seccomp", str(number)]
    limit(limits, with_processes=False)
    command = [
        shutil.which("bwrap", path="/usr/bin:/bin:/usr/local/bin") or "bwrap",
        *("--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *("--uid", str(namespaces.INSIDE), "--gid", str(namespaces.INSIDE), "--hostname", "sandbox"),
        *shown,
        *("--proc", "/proc", "--dev", "/dev", "--size", str(2 * limits.file_mib << 20), "--tmpfs", "/tmp"),  # noqa: S108
        *(word for name, value in _ENVIRONMENT.items() for word in ("--setenv", name, value)),
        *("--remount-ro", "/", "--chdir", "/tmp", *filtered, "--"),  # noqa: S108
        # Processes are limited inside: a namespace counts its own, and whoever makes one all that its user has.
        *_arguments(str(limits.processes + _HELPERS)),
    ]
    os.execve(command[0], command, {})  # noqa: S606


def _bind(path: str) -> Sequence[str]:
    link = Path(path)
    return ("--symlink", str(link.readlink()), path) if link.is_symlink() else ("--ro-bind", path, path)


def limit(limits: Limits, *, with_processes: bool = True) -> None:
    """Puts the limits over this process and all that it starts; that on processes only if it is said."""
    mib = 1 << 20
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_mib * mib),
        (resource.RLIMIT_DATA, limits.memory_mib * mib),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_mib * mib),
        (resource.RLIMIT_NPROC, limits.processes + _HELPERS),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_STACK, min(64, limits.memory_mib) * mib),
    ):
        if kind == resource.RLIMIT_NPROC and not with_processes:
            continue
        hard = resource.getrlimit(kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))


def _place(ports: Ports) -> None:
    """Puts the descriptors where `program.py` has them: 0 nothing, 1 and 2 output, 3 program, 4 result."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    given = (nothing, ports.output, ports.output, ports.program, ports.result)
    high = [os.dup2(number, 200 + index, inheritable=False) for index, number in enumerate(given)]
    setup = os.dup2(ports.setup, 210, inheritable=False)
    os.closerange(0, 200)
    for index, number in enumerate(high):
        os.dup2(number, index, inheritable=True)
    for number in high:
        os.close(number)
    ports.setup = setup


def _close_all() -> None:
    """Closes everything in a process that only waits: else pipes would never end."""
    os.closerange(0, 256)


def _status_of(pid: int) -> int:
    with suppress(ChildProcessError):
        return _code(os.waitpid(pid, 0)[1])
    return 1


def _code(status: int) -> int:
    """Returns a shell's exit code: 128 and the signal's number where a signal ended it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
