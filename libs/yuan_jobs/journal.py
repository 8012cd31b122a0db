"""Keeps the events of an attempt as JSON lines: `{"at": "2026-01-31T12:00:00.123456+00:00", "event": {…}}`."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from yuan_events import Event, event_from_json, event_to_json


class Journal:
    """An event sink that appends to a file. A full disk loses events, never the work."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def emit(self, event: Event) -> None:
        """Appends the event with the time of day."""
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        with suppress(OSError, ValueError):
            self._file.write(f'{{"at": "{at}", "event": {event_to_json(event)}}}\n')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()


def read_journal(path: Path) -> Iterator[tuple[datetime, Event]]:
    """Yields the moments and events of a journal, in order; a last line that was cut off is left out.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError, KeyError):
                entry: dict[str, Any] = json.loads(line)
                yield datetime.fromisoformat(entry["at"]), event_from_json(json.dumps(entry["event"]))
