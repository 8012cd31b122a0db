"""`python -m yuan_evaluator sandbox --socket PATH`: the sandbox in a container of its own, over a Unix socket.

Namespaces inside an unprivileged container fail, so the container is the wall: no network, a read-only root, no
capability but to change users and to end what they leave. Every connection is a zygote whose programs are a user of
their own. Started where one of these does not hold it ends with the reason.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

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
    parser.add_argument("--any-host", action="store_true", help="also where there is a network (for tests)")
    options = parser.parse_args(list(arguments))
    check_container(any_host=options.any_host)
    options.socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
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


def check_container(*, any_host: bool) -> None:
    """Checks that this is the container that it should be.

    Raises:
        InputError: if programs in it would not be confined.
    """
    if os.geteuid() != 0:
        raise InputError(
            "sandbox: start it as root with the capabilities SETUID, SETGID and KILL alone: every program "
            "gets a user of its own"
        )
    names = {path.name for path in Path("/sys/class/net").iterdir()} if Path("/sys/class/net").is_dir() else set()
    if names - {"lo"} and not any_host:
        raise InputError(f"sandbox: there is a network here ({', '.join(sorted(names))}); start it with network none")
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
