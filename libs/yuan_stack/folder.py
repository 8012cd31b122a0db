"""The folder of a home's stack: where its files are, and the lock of the one supervisor that may run in it.

After an orderly end only `logs/` and the broker's data stay in it.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from yuan_events import InputError
from yuan_stack.state import StackState

_LARGEST_LOG_BYTES = 8 * 1024 * 1024
_TAIL_BYTES = 16 * 1024
_LONGEST_LINE = 300


@dataclass(frozen=True)
class StackFolder:
    """Files of the stack of one home; the names are those of the folder."""

    home: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.home / "stack"

    @property
    def logs(self) -> Path:
        """One log a process; they stay."""
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        """Held (flock) by the supervisor, with its process id in it."""
        return self.path / "supervisor.pid"

    @property
    def state(self) -> Path:
        """What the supervisor tells, anew with every change."""
        return self.path / "state.json"

    @property
    def cluster(self) -> Path:
        """The resolved manifest that the processes run from."""
        return self.path / "cluster.yaml"

    @property
    def broker_url(self) -> Path:
        """URL of the embedded broker, with its password."""
        return self.path / "broker.url"

    @property
    def broker_lock(self) -> Path:
        """Held (flock) by the embedded broker's process for as long as it lives, whoever started it."""
        return self.path / "broker.lock"

    @property
    def broker_data(self) -> Path:
        """What the embedded broker keeps."""
        return self.path / "valkey"

    def log(self, name: str) -> Path:
        """Returns the log of a process."""
        return self.logs / f"{name}.log"

    def make(self) -> None:
        """Makes the folder, for its user alone: manifests and URLs in it can hold passwords.

        Raises:
            InputError: if that is impossible.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)
        except OSError as error:
            raise InputError(f"{self.path}: {(error.strerror or str(error)).lower()}; see cluster.home") from None

    def read_state(self) -> StackState | None:
        """Returns what the supervisor last told; None if there is nothing that can be read."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            return StackState.from_json(self.state.read_text(encoding="utf-8"))
        return None

    def clear(self) -> None:
        """Removes what belongs to a stack that runs."""
        for path in (self.state, self.cluster, self.broker_url, self.broker_lock):
            path.unlink(missing_ok=True)


class StackLock:
    """Held by the supervisor of a home; handed to it by whoever starts it, as an open descriptor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self.descriptor = descriptor

    @classmethod
    def acquire(cls, folder: StackFolder) -> Self | None:
        """Takes the lock; None if it is held."""
        descriptor = take_lock(folder.lock)
        if descriptor is None:
            return None
        os.ftruncate(descriptor, 0)
        return cls(folder.lock, descriptor)

    @classmethod
    def inherit(cls, folder: StackFolder, descriptor: int) -> Self:
        """Takes over the lock that the parent process passed on, and writes our process id into it."""
        os.set_inheritable(descriptor, False)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
        return cls(folder.lock, descriptor)

    def pass_on(self) -> None:
        """Lets go of it without giving it back: a child that inherited the descriptor holds it."""
        os.close(self.descriptor)

    def release(self) -> None:
        """Gives it back and removes the file."""
        self._path.unlink(missing_ok=True)
        os.close(self.descriptor)


@dataclass(frozen=True)
class Holder:
    """Who holds a stack's lock. pid: the supervisor; None in the moment before it has told."""

    pid: int | None


def holder_of(folder: StackFolder) -> Holder | None:
    """Returns who holds the lock; None if nobody does. Changes nothing."""
    try:
        descriptor = os.open(folder.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{folder.lock}: {(error.strerror or str(error)).lower()}; whose home is it?") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError, ValueError, KeyError, TypeError):
            told: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
            return Holder(int(told["pid"]))
        return Holder(None)
    else:
        return None
    finally:
        os.close(descriptor)


def take_lock(path: Path) -> int | None:
    """Opens a file and locks it; returns its descriptor, or None if it is locked already.

    Holders remove the file before they let go of it, so what was locked may be a file that is there no more.

    Raises:
        InputError: if it cannot be opened.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"{path}: {(error.strerror or str(error)).lower()}; see cluster.home") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its user can read, whole or not at all.

    Raises:
        OSError: as writing does.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def digest(text: str) -> str:
    """Returns what tells one manifest's text from another's."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_log(path: Path) -> tuple[int, int]:
    """Opens a log to append to, an overlong one set aside before; returns its descriptor and its length."""
    with suppress(OSError):
        if path.stat().st_size > _LARGEST_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return descriptor, os.fstat(descriptor).st_size


def last_line(path: Path, start: int = 0, *, skip: Callable[[str], bool] = lambda line: False) -> str:
    """Returns the last line of a log that is not blank, in its first 300 characters.

    Args:
        path: of the log.
        start: only what stands from that byte on counts.
        skip: lines that do not count.
    """
    with suppress(OSError), path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _TAIL_BYTES))
        for line in reversed(file.read().decode(errors="replace").splitlines()):
            text = " ".join(line.split())
            if text and not skip(text):
                return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 1]}…"
    return ""
