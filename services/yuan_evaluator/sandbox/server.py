"""`python -m yuan_evaluator sandbox --socket PATH`: the sandbox in a container of its own, over a Unix socket.

Namespaces inside an unprivileged container fail, so the container is the wall: no network, a read-only root, no
capability but to change users and to end what they leave. Every connection is a zygote whose programs are a user of
their own. Started where one of these does not hold it ends with the reason.

Containers of a Kubernetes pod share its network. There `--deny-network` is the wall: before anything else this process
gives up, for itself and all that it will ever start, to make any socket but a Unix one (`seccomp.py`).
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from yuan_evaluator.sandbox import seccomp
from yuan_evaluator.sandbox.backends import Backend
from yuan_evaluator.sandbox.limits import Limits
from yuan_evaluator.sandbox.zygote import run, serve
from yuan_events import InputError
from yuan_jobs.arguments import ArgumentParser

_CONNECTIONS = 64


def sandbox_command(arguments: Sequence[str]) -> int:
    """Serves until SIGTERM.

    Raises:
        InputError: if this container is none, or the socket cannot be made.
    """
    parser = ArgumentParser(prog="python -m yuan_evaluator sandbox", allow_abbrev=False, description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="its path; a file of that name is replaced")
    parser.add_argument(
        "--deny-network",
        action="store_true",
        help="where there is a network, as in a pod: give up all sockets but Unix ones, for good",
    )
    options = parser.parse_args(list(arguments))
    if options.deny_network:
        deny_network()
    check_container(denied=options.deny_network)
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Volumes of Kubernetes are everybody's to write: a program could take the socket away, or others' folders.
        _close_folder(options.socket.parent, 0o755)
        for folder in ("/tmp", "/dev/shm"):  # noqa: S108
            _close_folder(Path(folder), 0o1777)
        options.socket.unlink(missing_ok=True)
        before = os.umask(0o177)
        listener.bind(str(options.socket))
        os.umask(before)
        # Who may ask is who may enter the folder: the volume that the evaluator shares. Programs may not make sockets.
        options.socket.chmod(0o666)
    except OSError as error:
        raise InputError(f"--socket {options.socket}: {(error.strerror or str(error)).lower()}") from None
    listener.listen(_CONNECTIONS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stderr.write(f"sandbox: answers at {options.socket}\n")
    children: set[int] = set()
    while True:
        connection, _ = listener.accept()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                listener.close()
                serve(connection, Backend.user)
            os._exit(0)
        connection.close()
        children.add(pid)
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                children.discard(ended)


def _close_folder(folder: Path, mode: int) -> None:
    """Gives a folder of ours that everybody may write to another mode."""
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o1002 == 0o0002:
        folder.chmod(mode)


def deny_network() -> None:
    """Gives up all sockets but Unix ones, and tries whether that holds.

    Raises:
        InputError: if it does not.
    """
    try:
        held = seccomp.deny_network()
    except OSError as error:
        raise InputError(f"sandbox: the network cannot be denied here: {error.strerror}") from None
    if not held:
        raise InputError("sandbox: the network cannot be denied here: this kernel or processor has no filter of ours")
    opened: list[str] = []
    for name in ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK"):
        if (family := getattr(socket, name, None)) is not None:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                with suppress(OSError):
                    socket.socket(family, kind).close()
                    opened.append(name)
    if opened:
        raise InputError(f"sandbox: the network cannot be denied here: sockets of {', '.join(set(opened))} open")


def check_container(*, denied: bool) -> None:
    """Checks that this is the container that it should be.

    Args:
        denied: there may be a network, since nobody here can make a socket to it.

    Raises:
        InputError: if programs in it would not be confined.
    """
    if os.geteuid() != 0:
        raise InputError(
            "sandbox: start it as root with the capabilities SETUID, SETGID and KILL alone: every program "
            "gets a user of its own"
        )
    names = {path.name for path in Path("/sys/class/net").iterdir()} if Path("/sys/class/net").is_dir() else set()
    if names - {"lo"} and not denied:
        found = ", ".join(sorted(names))
        raise InputError(f"sandbox: there is a network here ({found}); start it with network none or --deny-network")
    reader, writer = os.pipe()
    pid = os.fork()  # what it leaves behind is this child's, and `run` forks again
    if pid == 0:
        with suppress(BaseException):
            answer = run("pass", Limits(), Backend.user)
            os.write(writer, str(answer.get("refused") or answer.get("detail") or "fine").encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as file:
        said = file.read()
    if said != "fine":
        raise InputError(f"sandbox: a program cannot be a user of its own here: {said or 'the probe broke off'}")
