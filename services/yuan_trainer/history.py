"""The metrics of a run over all its attempts: a file of JSON lines that a resumed run takes up where its state ends."""

import json
import os
from pathlib import Path
from typing import Any

from yuan_events import Event, EventSink, Metrics

HISTORY_NAME = "metrics.jsonl"
_LAST_PART = 1 << 18
"""Bytes: some hundred steps."""


class HistorySink:
    """Passes every event on and keeps metrics in a file, one line each: `{"attempt": 1, "step": 3, "loss": 5.1, …}`.

    A run that goes back some steps measures them anew: what lay there before is forgotten.
    """

    def __init__(self, path: Path, sink: EventSink, attempt: int = 1) -> None:
        self.path = path
        self._sink = sink
        self._attempt = attempt
        self._last = 0

    def emit(self, event: Event) -> None:
        """Keeps a metrics event and passes every event on."""
        if isinstance(event, Metrics):
            if event.step < self._last:
                cut_history(self.path, event.step - 1)
            self._last = event.step
            line = json.dumps({"attempt": self._attempt, "step": event.step, **event.values})
            with self.path.open("a", encoding="utf-8") as opened:
                opened.write(line + "\n")
        self._sink.emit(event)


class HistoryReader:
    """Reads a history while it is written: each call returns what is new.

    A run that is taken up forgets what lies beyond its state and measures it anew; those steps are new again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # Of every line that was returned: the file may be replaced at any time, and only what differs is new.
        self._seen: list[int] = []
        self._size = 0
        self._inode = -1

    def read_new(self) -> list[dict[str, Any]]:
        """Returns the records that were not returned yet, in order; none while there is no file."""
        try:
            with self._path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino == self._inode and status.st_size >= self._size:
                    file.seek(self._size)
                    lines = _whole_lines(file.read())
                else:
                    lines = _whole_lines(file.read())
                    first = self._common(lines)
                    self._size = sum(map(len, lines[:first]))
                    del self._seen[first:]
                    lines = lines[first:]
        except FileNotFoundError:
            return []
        self._inode = status.st_ino
        self._size += sum(map(len, lines))
        self._seen.extend(map(hash, lines))
        return [json.loads(line) for line in lines]

    def _common(self, lines: list[bytes]) -> int:
        """Returns how many lines of a new file are those that were returned."""
        for number, (line, seen) in enumerate(zip(lines, self._seen, strict=False)):
            if hash(line) != seen:
                return number
        return min(len(lines), len(self._seen))


def _whole_lines(data: bytes) -> list[bytes]:
    """Returns the lines that have been written to their end."""
    return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def read_history(path: Path) -> list[dict[str, Any]]:
    """Returns the records in order; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in _whole_lines(path.read_bytes())]


def latest(path: Path) -> dict[str, Any]:
    """Returns the newest value of every metric in the last part of a history; nothing while there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LAST_PART))
            lines = _whole_lines(file.read())
    except FileNotFoundError:
        return {}
    values: dict[str, Any] = {}
    for line in lines[1:] if size > _LAST_PART else lines:  # the first one may be cut
        values |= json.loads(line)
    return values


def cut_history(path: Path, step: int) -> None:
    """Forgets what lies beyond a step: the run goes on from there and will measure it anew."""
    kept = [record for record in read_history(path) if record["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    temporary.replace(path)


def series(records: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Returns the steps and values of one metric."""
    found = [(record["step"], record[name]) for record in records if name in record]
    return [step for step, _ in found], [value for _, value in found]
