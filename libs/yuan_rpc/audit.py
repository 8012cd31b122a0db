"""Who did what: append-only JSON lines for every call that changes something and for every refusal.

Any number of processes write into one folder. Changes and refusals are files of their own, so that a flood of wrong
tokens pushes no change out; each is set aside when it has grown, and the oldest go. What stands in a line are names and
ids: no request, no manifest, no token.
"""

import fcntl
import getpass
import heapq
import json
import logging
import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from yuan_rpc.errors import RpcError

_LOGGER = logging.getLogger("yuan_rpc.audit")

REFUSALS_PER_MINUTE = 300
"""Of one process; how many more there were stands in the next line."""

_LONGEST_TEXT = 200
_NUMBER = re.compile(r"-(\d{6})\.jsonl$")


class Stream(StrEnum):
    """Which file a line stands in."""

    changes = "changes"
    refusals = "refusals"


@dataclass(frozen=True)
class AuditEntry:
    """One line.

    Attributes:
        subject: who, as their token is called; `owner`: the stack's own; `unknown`: nobody that is known; `os:NAME`: a
            user of the machine who acted on the registry directly.
        role: theirs; empty: none that is known.
        service: which server was called, or `cli`.
        method: what they did, `/yuan.jobs.v1.JobService/Cancel` or `yuan restore`.
        object: what they did it to, by field of the request or the reply.
        outcome: gRPC's status (`OK`, `PERMISSION_DENIED`); of the gateway HTTP's.
        peer: where the call came from.
        reason: of a refusal, in a line.
        omitted: refusals that came before this one and were too many to be written.
        time: when it ended, UTC.
    """

    subject: str
    role: str
    service: str
    method: str
    object: Mapping[str, str]
    outcome: str
    peer: str
    reason: str = ""
    omitted: int = 0
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))


class AuditLog:
    """The audit log of one process."""

    def __init__(
        self,
        folder: Path,
        *,
        file_bytes: int = 16 * 2**20,
        files: int = 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describes it; the folder is made with the first line.

        Args:
            folder: shared by all processes of a stack.
            file_bytes: a file is set aside before it grows beyond that.
            files: how many that were set aside are kept, of changes and of refusals each.
            clock: seconds.
        """
        self._folder = folder
        self._file_bytes = file_bytes
        self._files = files
        self._clock = clock
        self._minute = clock()
        self._written = 0
        self._omitted = 0

    def change(self, entry: AuditEntry) -> None:
        """Writes a line on a call that changes something, whatever came of it; if need be into the server's log."""
        self._write(Stream.changes, entry)

    def refusal(self, entry: AuditEntry) -> None:
        """Writes a line on a call that was refused, unless there are too many."""
        now = self._clock()
        if now - self._minute >= 60.0:
            self._minute, self._written = now, 0
        if self._written >= REFUSALS_PER_MINUTE:
            self._omitted += 1
            return
        self._written += 1
        omitted, self._omitted = self._omitted, 0
        self._write(Stream.refusals, replace(entry, omitted=omitted))

    def _write(self, stream: Stream, entry: AuditEntry) -> None:
        facts = {key: _short(value) for key, value in asdict(entry).items() if value or key in {"object", "role"}}
        line = json.dumps({"time": facts.pop("time"), **facts}, ensure_ascii=False).encode() + b"\n"
        try:
            with self._locked():
                path = self._folder / f"{stream}.jsonl"
                if path.exists() and path.stat().st_size + len(line) > self._file_bytes:
                    self._set_aside(path)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                with os.fdopen(descriptor, "r+b", buffering=0) as file:
                    size = os.fstat(descriptor).st_size
                    # A line that a full disk cut off is not to spoil the next one.
                    cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                    file.write((b"\n" if cut else b"") + line)
        except OSError as error:
            reason = error.strerror or str(error)
            _LOGGER.error(
                "%s: cannot write the audit log: %s; the line is: %s", self._folder, reason, line.decode().strip()
            )

    @contextmanager
    def _locked(self) -> Generator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._folder / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _set_aside(self, path: Path) -> None:
        older = _set_aside_files(path)
        last = _NUMBER.search(older[-1].name) if older else None
        path.rename(path.with_name(f"{path.stem}-{int(last[1]) + 1 if last else 1:06d}.jsonl"))
        for file in _set_aside_files(path)[: -self._files]:
            file.unlink()


def read_audit(folder: Path) -> Generator[dict[str, Any]]:
    """Reads all lines of a folder, oldest first; a line that is broken (a full disk) is left out."""
    yield from heapq.merge(*(_rows(folder, stream) for stream in Stream), key=lambda row: str(row["time"]))


def _rows(folder: Path, stream: Stream) -> Generator[dict[str, Any]]:
    path = folder / f"{stream}.jsonl"
    for name in (*_set_aside_files(path), path):
        # One that is just being set aside or thrown out is not there.
        with suppress(FileNotFoundError), name.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, TypeError):
                    row = {"time": "", **json.loads(line), "stream": str(stream)}
                    yield row


@dataclass
class Telling:
    """What a line is going to say; outcome: `OK` unless something is raised, or it is set."""

    outcome: str = "OK"


@contextmanager
def audited(log: AuditLog, method: str, about: Mapping[str, str]) -> Generator[Telling]:
    """Tells of what a user of this machine does to the registry or the tokens directly, and what came of it.

    Args:
        log: where.
        method: the command, `yuan restore`.
        about: what it is about, by name.
    """
    telling = Telling()
    try:
        yield telling
    except BaseException as error:
        telling.outcome = error.code.name if isinstance(error, RpcError) else type(error).__name__
        raise
    finally:
        log.change(AuditEntry(local_subject(), "", "cli", method, dict(about), telling.outcome, f"pid:{os.getpid()}"))


def local_subject() -> str:
    """Returns how a user of this machine stands in the log."""
    try:
        return f"os:{getpass.getuser()}"
    except (KeyError, OSError):
        # A container's user without a name.
        return f"os:{os.getuid()}"


def object_of(paths: Iterable[str], *messages: Any) -> dict[str, str]:
    """Returns what a call is about.

    Args:
        paths: of fields, see `access.Rule.about`.
        messages: where they are looked for, the first that has one decides.
    """
    found: dict[str, str] = {}
    for path in paths:
        value = next((text for message in messages if (text := _field(message, path))), "")
        if value:
            found[path] = value
    return found


def _field(message: Any, path: str) -> str:
    value = message
    for part in path.split("."):
        if isinstance(value, Struct):
            value = value[part] if part in value.fields else None
        elif isinstance(value, Message) and part in value.DESCRIPTOR.fields_by_name:
            value = getattr(value, part)
        else:
            return ""
    return _short(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else ""


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _short(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return " ".join(value.split())[:_LONGEST_TEXT] if isinstance(value, str) else value


def _set_aside_files(path: Path) -> list[Path]:
    """Returns the files of a stream that were set aside, oldest first."""
    return sorted(file for file in path.parent.glob(f"{path.stem}-*.jsonl") if _NUMBER.search(file.name))
