"""Issued tokens: a JSON file with a name, a role, an end and limits for each, and the hash of its secret.

`yuan token` writes it, every server reads it anew when it has changed. A name may have several tokens at once: the next
one is handed out before the last one is taken back. The secrets are 256 random bits, so that a plain SHA-256 of one
tells nothing of it; they stand nowhere but with their holders.
"""

import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from yuan_events import InputError
from yuan_manifest.schema import Role

_VERSION = 1
_PREFIX = "yuan"
_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests")


@dataclass(frozen=True)
class IssuedToken:
    """One token, without its secret.

    Attributes:
        id: eight digits that also stand in the token itself; no secret.
        name: of its holder.
        role: what it allows.
        sha256: hash of the whole token, in hexadecimal.
        created: when it was made.
        expires: when it ends; None: never.
        requests_per_minute: limit; None: none.
        tokens_per_minute: of prompts and answers together.
        concurrent_requests: that run or wait at once.
    """

    id: str
    name: str
    role: Role
    sha256: str
    created: datetime
    expires: datetime | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


class TokenStore:
    """The file of issued tokens, to be changed; any number of processes may do so at once."""

    def __init__(self, path: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Args: path: the file; it is made with its first token. now: the time."""
        self._path = path
        self._now = now

    def all(self) -> list[IssuedToken]:
        """Returns all tokens, in the order in which they were made.

        Raises:
            InputError: if the file is wrong.
        """
        return list(read_issued(self._path).values())

    def issue(
        self,
        name: str,
        role: Role,
        *,
        expires: datetime | None = None,
        limits: Mapping[str, int | None] | None = None,
        others_end: datetime | None = None,
    ) -> tuple[IssuedToken, str]:
        """Makes a token.

        Args:
            name: of its holder.
            role: what it allows.
            expires: when it ends; None: never.
            limits: by the names of `IssuedToken`'s fields.
            others_end: when the tokens that this name has already end, where that is not sooner; None: as they are.

        Returns:
            The token's facts, and the token: it is told this once.

        Raises:
            InputError: if the file is wrong or cannot be written.
        """
        number = secrets.token_hex(4)
        token = f"{_PREFIX}_{number}_{secrets.token_urlsafe(32)}"
        made = IssuedToken(
            number,
            name,
            role,
            digest_of(token.encode()),
            self._now(),
            expires,
            **(limits or {}),
        )
        with self._changing() as tokens:
            if others_end is not None:
                tokens[:] = [_ending(one, others_end) if one.name == name else one for one in tokens]
            tokens.append(made)
        return made, token

    def revoke(self, which: str) -> list[IssuedToken]:
        """Takes tokens back.

        Args:
            which: a name, for all of its tokens, or the id of one.

        Returns:
            Those that were taken back.

        Raises:
            InputError: if there is none, or the file is wrong or cannot be written.
        """
        with self._changing() as tokens:
            gone = [one for one in tokens if which in {one.name, one.id}]
            if not gone:
                known = ", ".join(dict.fromkeys(one.name for one in tokens)) or "none"
                raise InputError(f"{self._path}: no token of {which!r}; there are: {known}")
            tokens[:] = [one for one in tokens if one not in gone]
        return gone

    @contextmanager
    def _changing(self) -> Generator[list[IssuedToken]]:
        """Gives the tokens to be changed, alone, and writes them at the end."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"{self._path}: cannot change the tokens: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self.all()
            yield tokens
            write_secret(self._path, json.dumps(_as_json(tokens), indent=1) + "\n")
        finally:
            os.close(lock)


def digest_of(token: bytes) -> str:
    """Returns the hash that a token is known by."""
    return hashlib.sha256(token).hexdigest()


def read_issued(path: Path) -> Mapping[str, IssuedToken]:
    """Reads a file of issued tokens.

    Returns:
        The tokens by their hashes; none where there is no file.

    Raises:
        InputError: if it cannot be read, is no such file, or others than its owner can change it.
    """
    try:
        mode = path.stat().st_mode
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise InputError(f"{path}: others can change the tokens (mode {mode & 0o777:04o}); run: chmod 600 {path}")
        if content["version"] != _VERSION:
            raise InputError(f"{path}: tokens of version {content['version']!r}; this program knows {_VERSION}")
        tokens = [_token_of(row) for row in content["tokens"]]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{path}: cannot read the tokens: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no file of tokens; `yuan token` writes one: {error}") from error
    return {one.sha256: one for one in tokens}


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all.

    Raises:
        InputError: if it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from error


def _token_of(row: Mapping[str, Any]) -> IssuedToken:
    limits = {name: row.get(name) for name in _LIMITS}
    if not all(value is None or (type(value) is int and value > 0) for value in limits.values()):
        raise ValueError(f"a limit of {row['name']!r} is no number above 0")
    if len(row["sha256"]) != hashlib.sha256().digest_size * 2:
        raise ValueError(f"the hash of {row['name']!r} is no SHA-256")
    return IssuedToken(
        id=str(row["id"]),
        name=str(row["name"]),
        role=Role(row["role"]),
        sha256=str(row["sha256"]),
        created=_moment(row["created"]),
        expires=_moment(row["expires"]) if row.get("expires") else None,
        **limits,
    )


def _as_json(tokens: Sequence[IssuedToken]) -> dict[str, Any]:
    def plain(value: object) -> object:
        return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value

    rows = [{key: plain(value) for key, value in asdict(one).items() if value is not None} for one in tokens]
    return {"version": _VERSION, "tokens": rows}


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _ending(token: IssuedToken, moment: datetime) -> IssuedToken:
    return token if token.expires is not None and token.expires <= moment else replace(token, expires=moment)
