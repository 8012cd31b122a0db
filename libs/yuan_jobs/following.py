"""Reads what a job's attempts write while they write it: the journal of events, and the lines of its processes.

Files only; how a job stands, and so when there is no more to come, is the reader's to know.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yuan_events import Progress, event_from_json
from yuan_jobs.home import Home

_BYTES_AT_ONCE = 1 << 20
_LONGEST_LINE = 64 << 10
_TAIL_BYTES = 64 << 10


@dataclass
class LineReader:
    """Reads a growing file line by line; a last line without its end is left until it has one.

    Attributes:
        path: may not exist yet.
        offset: bytes read so far.
    """

    path: Path
    offset: int = 0

    def read(self) -> list[str]:
        """Returns new whole lines without their ends, about a megabyte of them; none: there are no more for now."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(_BYTES_AT_ONCE)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        if not end and len(data) == _BYTES_AT_ONCE:
            # Longer than any line is meant to be: passed on in pieces.
            end = len(data)
        self.offset += end
        text = data[:end].decode("utf-8", errors="replace")
        return [piece for line in text.split("\n")[:-1] or ([text] if text else []) for piece in _pieces(line)]


def _pieces(line: str) -> Iterator[str]:
    """Yields a line in pieces that a message can hold."""
    line = line.removesuffix("\r")
    for start in range(0, max(1, len(line)), _LONGEST_LINE):
        yield line[start : start + _LONGEST_LINE]


@dataclass
class EventReader:
    """Reads the events of a job, over all of its attempts from the first one on.

    Attributes:
        home: where its journals are.
        job_id: whose.
    """

    home: Home
    job_id: str
    _readers: dict[int, LineReader] = field(default_factory=dict[int, LineReader])

    def read(self, attempts: int) -> list[str]:
        """Returns new events as JSON, in order; none: there are no more for now.

        Args:
            attempts: how many attempts the job has had so far.
        """
        events: list[str] = []
        for number in range(1, attempts + 1):
            path = self.home.attempt_folder(self.job_id, number) / "events.jsonl"
            for line in self._readers.setdefault(number, LineReader(path)).read():
                with suppress(ValueError, KeyError, TypeError):
                    entry: dict[str, Any] = json.loads(line)
                    events.append(json.dumps(entry["event"], ensure_ascii=False))
        return events


def last_progress(home: Home, job_id: str, attempt: int) -> Progress | None:
    """Returns the newest progress that an attempt has told; None: none near the end of its journal.

    Args:
        home: where its journal is.
        job_id: whose.
        attempt: its number.
    """
    try:
        with (home.attempt_folder(job_id, attempt) / "events.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        # The first may be a part of a line, the last may be half written.
        with suppress(ValueError, KeyError, TypeError):
            event = event_from_json(json.dumps(json.loads(line)["event"]))
            if isinstance(event, Progress):
                return event
    return None


@dataclass(frozen=True)
class LogLine:
    """A line that a process of a job printed.

    Attributes:
        source: which process, the log's name: `worker`, `rank-0`.
        attempt: in which attempt; 0: the log is kept over attempts.
        text: without its end.
    """

    source: str
    attempt: int
    text: str


@dataclass
class LogReader:
    """Reads the logs of a job's processes: `attempt-N/*.log` of every attempt, and `logs/*.log` of its ranks.

    Attributes:
        home: where they are.
        job_id: whose.
    """

    home: Home
    job_id: str
    _readers: dict[Path, LineReader] = field(default_factory=dict[Path, LineReader])

    def read(self) -> list[LogLine]:
        """Returns new lines, those of one file together; none: there are no more for now."""
        folder = self.home.run_folder(self.job_id)
        found = [(path, _number(path.parent.name)) for path in sorted(folder.glob("attempt-*/*.log"))]
        found += [(path, 0) for path in sorted(folder.glob("logs/*.log"))]
        lines: list[LogLine] = []
        for path, attempt in sorted(found, key=lambda item: item[1]):
            reader = self._readers.setdefault(path, LineReader(path))
            lines += [LogLine(path.stem, attempt, text) for text in reader.read()]
        return lines


def _number(folder: str) -> int:
    digits = folder.removeprefix("attempt-")
    return int(digits) if digits.isdigit() else 0
