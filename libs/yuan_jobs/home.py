"""The folder of a machine's jobs (`YUAN_HOME`, `~/.yuan`), and the lock that lets one run at a time into it.

Paths only: what is in the registry and the store is known to `registry.py` and `artifacts.py`.
"""

import fcntl
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from yuan_events import InputError
from yuan_manifest.schema import Cluster

LOCK_VARIABLE = "YUAN_RUN_LOCK_FD"
"""Environment variable by which a child finds the descriptor of the lock that its parent holds."""

_SQLITE = "sqlite:///"
_GRACE_OF_DEAD_HOLDER_S = 15.0


@dataclass(frozen=True)
class Home:
    """Where a cluster manifest keeps things on this machine.

    Attributes:
        path: the home folder, absolute.
        registry_url: SQLAlchemy URL of the registry.
        store: the artifact store: an absolute folder, or an fsspec URL.
    """

    path: Path
    registry_url: str
    store: str

    @classmethod
    def of(cls, cluster: Cluster) -> Self:
        """Returns the home that a cluster manifest names, and makes its folders.

        Raises:
            InputError: if it is not a folder, or not one that we may write in.
        """
        path = _absolute(cluster.home)
        registry = cluster.registry
        if registry.startswith(_SQLITE):
            registry = _SQLITE + str(_absolute(registry.removeprefix(_SQLITE)))
        store = cluster.store if "://" in cluster.store else str(_absolute(cluster.store))
        home = cls(path, registry, store)
        try:
            for folder in (home.runs, home.logs):
                folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"home {path}: not a folder; set YUAN_HOME (or cluster.home) to one") from None
        except OSError as error:
            raise InputError(
                f"home {path}: {_reason(error)}; set YUAN_HOME (or cluster.home) to a folder that you may write in"
            ) from None
        if not os.access(home.runs, os.W_OK | os.X_OK):
            raise InputError(
                f"home {path}: no permission to write in it; set YUAN_HOME (or cluster.home) to a folder of yours"
            )
        return home

    @property
    def runs(self) -> Path:
        """What belongs to a job and outlives its attempts: one folder a job, named by its id."""
        return self.path / "runs"

    @property
    def logs(self) -> Path:
        """Logs that belong to no job."""
        return self.path / "logs"

    @property
    def scratch(self) -> Path:
        """Files of the run that holds the lock, of no use to any other."""
        return self.path / "scratch"

    def run_folder(self, job_id: str) -> Path:
        """Returns the folder of one job's run state."""
        return self.runs / job_id

    def attempt_folder(self, job_id: str, attempt: int) -> Path:
        """Returns the folder of one attempt's events and traceback."""
        return self.run_folder(job_id) / f"attempt-{attempt}"


class HomeLock:
    """Held while jobs run in a home; a second holder is refused.

    The lock (flock) belongs to an open file description: children that inherit the descriptor hold it too, and it
    is free as soon as the last of them has ended, however it ended. The file itself is never removed.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, home: Home, name: str) -> Self:
        """Takes the lock, or the one that the parent process holds for us.

        Args:
            home: where.
            name: what is to run, told to others who try.

        Raises:
            InputError: if another run holds it.
        """
        inherited = _inherited_descriptor(home.path / "run.lock")
        try:
            descriptor = inherited
            if descriptor is None:
                descriptor = os.open(home.path / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(f"home {home.path}: cannot lock it: {_reason(error)}") from None
        deadline = time.monotonic() + _GRACE_OF_DEAD_HOLDER_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(descriptor)
                # The processes of a run that was killed need a moment to end.
                if not _is_alive(holder.get("pid")) and time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(descriptor)
                raise InputError(_busy(home, holder)) from None
            break
        if inherited is None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "name": name}).encode(), 0)
        return cls(descriptor)

    @property
    def descriptor(self) -> int:
        """The open file's number, to be passed on to a child together with `environment`."""
        return self._descriptor

    def environment(self) -> dict[str, str]:
        """Returns the variable that tells a child of its inherited lock."""
        return {LOCK_VARIABLE: str(self._descriptor)}

    def release(self) -> None:
        """Gives the lock back; others who inherited it keep it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def slug(name: str, fallback: str) -> str:
    """Returns a name that can be part of a file name on every system, at most 40 characters long."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:40].rstrip("-._") or fallback


def _absolute(path: str) -> Path:
    """Returns a path with `~` and the current folder filled in."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise InputError(f"home {path}: this user has no home folder; set YUAN_HOME to a folder") from None


def _inherited_descriptor(lock_file: Path) -> int | None:
    """Returns the parent's lock descriptor, if there is one and it is this home's; it is not passed on further."""
    value = os.environ.pop(LOCK_VARIABLE, "")
    if not value.isdigit():
        return None
    try:
        ours, theirs = lock_file.stat(), os.fstat(int(value))
    except OSError:
        return None
    if (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino):
        return None
    os.set_inheritable(int(value), False)
    return int(value)


def _read_holder(descriptor: int) -> dict[str, Any]:
    """Returns what the holder wrote into the lock file (nothing, for a moment after it took the lock)."""
    with suppress(OSError, ValueError, TypeError):
        holder: Any = json.loads(os.pread(descriptor, 4096, 0))
        return dict(holder)
    return {}


def _is_alive(pid: object) -> bool:
    """Says whether a process exists; unknown counts as alive."""
    if not isinstance(pid, int) or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _busy(home: Home, holder: dict[str, Any]) -> str:
    who = f"{holder['name']} (process {holder['pid']})" if {"name", "pid"} <= holder.keys() else "another run"
    return f"home {home.path} is busy: {who} is at work in it; wait for its end, or use another home (YUAN_HOME)"


def _reason(error: OSError) -> str:
    """Returns the system's words for an error: `no space left on device`."""
    return (error.strerror or str(error)).lower()
