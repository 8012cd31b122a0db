"""The folder through which a run and its hosts talk: shared, since all hosts see `cluster.home` at one path.

A folder and no connection: a compute node of a batch system seldom reaches the machine that submitted to it, and a
folder opens no port, needs no token, and is guarded by the file permissions that guard the run's weights.

    launch.json     what every host is told
    control         a counter and a word, from the run to all hosts
    host-N.alive    a counter, from host N
    host-N.jsonl    events and reports of host N, one a line

A counter that stands still for a lease means that its writer is gone; no clocks are compared. Files are written in
place and opened anew for each look: that is what a network file system (NFS: close-to-open consistency) keeps
current. Those that are read are there before any host starts, so that no host remembers that they were missing.
"""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from yuan_events import Event, event_from_json, event_to_json
from yuan_trainer.launcher import Cause, Failure, Share

BEAT_SECONDS = 1.0
LOOK_SECONDS = 0.5


class Word(StrEnum):
    """What the run tells its hosts."""

    wait = "wait"
    go = "go"
    stop = "stop"
    end = "end"


@dataclass(frozen=True)
class Launch:
    """What every host is told.

    Attributes:
        specification: file of the ranks' specification.
        logs: folder of the ranks' logs.
        ranks: of all hosts.
        devices: ranks of a host; the last one may have fewer.
        device: `cpu` or `cuda`.
        port: at which ranks of several hosts meet.
        lease_seconds: how long a silence is borne.
        visible_devices: devices of a host that its ranks may use, where whoever starts agents hides them
            (CUDA_VISIBLE_DEVICES); "": as they are.
    """

    specification: str
    logs: str
    ranks: int
    devices: int
    device: str
    port: int
    lease_seconds: int
    visible_devices: str = ""

    @property
    def hosts(self) -> int:
        """Hosts that the ranks fill."""
        return -(-self.ranks // self.devices)

    def share(self, host: int) -> Share:
        """Returns the ranks of a host."""
        first = host * self.devices
        return Share(first, min(self.devices, self.ranks - first), self.ranks)


@dataclass(frozen=True)
class HostReport:
    """What a host says of itself, beside events.

    Attributes:
        state: `ready` (waits for the word to go), `done`, `stopped` (on request), `failed`, `ended` (as it was told).
        name: of the host.
        step: steps finished, where it stopped.
        cause, text: what went wrong, where it failed.
    """

    state: str
    name: str
    step: int = 0
    cause: int = Cause.reason
    text: str = ""

    @property
    def failure(self) -> Failure | None:
        """What went wrong."""
        return Failure(Cause(self.cause), self.text) if self.state == "failed" else None


class LaunchFolder:
    """The folder; see the module."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.control = path / "control"

    @classmethod
    def make(cls, path: Path, launch: Launch) -> Self:
        """Makes the folder, with all that hosts look for."""
        path.mkdir(parents=True)
        folder = cls(path)
        (path / "launch.json").write_text(json.dumps(asdict(launch), indent=1), encoding="utf-8")
        _write_record(folder.control, 0, Word.wait)
        for host in range(launch.hosts):
            folder.events(host).touch()
            _write_record(folder.alive(host), 0, Word.wait)
        return folder

    def launch(self) -> Launch:
        """Returns what every host is told."""
        return Launch(**json.loads((self.path / "launch.json").read_text(encoding="utf-8")))

    def events(self, host: int) -> Path:
        """Returns the file of a host's events and reports."""
        return self.path / f"host-{host}.jsonl"

    def alive(self, host: int) -> Path:
        """Returns the file of a host's counter."""
        return self.path / f"host-{host}.alive"

    def close(self) -> None:
        """Tells hosts that may still come that the run has ended."""
        if self.control.exists():
            _write_record(self.control, 0, Word.end)


class Beacon:
    """Moves a counter in a file for as long as this process lives; a context manager."""

    def __init__(self, path: Path, word: Word = Word.go) -> None:
        self._path = path
        self._word = word
        self._count = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"beacon-{path.name}", daemon=True)

    def say(self, word: Word) -> None:
        """Puts another word beside the counter, at once."""
        self._word = word
        self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._count += 1
            _write_record(self._path, self._count, self._word)

    def __enter__(self) -> Self:
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()


class Watch:
    """Reads another's beacon, and counts for how long it has not moved.

    Only time in which this process ran is counted (a slice of at most a second between two looks): one that was
    suspended has not seen a silence.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = -1
        self._looked: float | None = None
        self.word = Word.wait
        self.silent_seconds = 0.0

    def look(self) -> Word:
        """Returns the word, read anew where it was not just now; a file that is gone says `end`."""
        now = time.monotonic()
        if self._looked is not None:
            if now - self._looked < LOOK_SECONDS:
                return self.word
            self.silent_seconds += min(now - self._looked, 1.0)
        self._looked = now
        count, word = _read_record(self._path)
        if word is not None and count != self._count:
            self._count, self.word = count, word
            self.silent_seconds = 0.0
        return self.word


class HostWriter:
    """A host's end of its file: takes events (an `EventSink`) and reports."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def emit(self, event: Event) -> None:
        """Writes an event."""
        self._write(event_to_json(event))

    def report(self, report: HostReport) -> None:
        """Writes a report."""
        self._write(json.dumps({"host_report": asdict(report)}))

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())  # a network file system shows others only what was synced


class HostReader:
    """The run's end of a host's file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read_new(self) -> list[Event | HostReport]:
        """Returns what was written since the last time."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # a line that is not all there yet is left for the next time
        self._offset += len(whole)
        return [_parsed(line) for line in whole.decode("utf-8").splitlines()]


def _parsed(line: str) -> Event | HostReport:
    data: Any = json.loads(line)
    fields = data.get("host_report") if isinstance(data, dict) else None
    return event_from_json(line) if fields is None else HostReport(**fields)


def _write_record(path: Path, count: int, word: Word) -> None:
    """Writes in place, always as many bytes: a reader sees this record or the one before."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, f"{count:012d} {word:<4}\n".encode(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_record(path: Path) -> tuple[int, Word | None]:
    try:
        count, _, word = path.read_text(encoding="utf-8").strip().partition(" ")
        return int(count), Word(word)
    except FileNotFoundError:  # a later run has cleared this one away
        return -2, Word.end
    except (OSError, ValueError):  # a file server that does not answer: the next look tells
        return 0, None
