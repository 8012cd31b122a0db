"""The metrics of a run over all its attempts: a file of JSON lines that a resumed run takes up where its state ends."""

import json
from pathlib import Path
from typing import Any

from yuan_events import Event, EventSink, Metrics


class HistorySink:
    """Passes every event on and keeps metrics in a file, one line each: `{"step": 3, "loss": 5.1, …}`."""

    def __init__(self, path: Path, sink: EventSink) -> None:
        self.path = path
        self._sink = sink

    def emit(self, event: Event) -> None:
        """Keeps a metrics event and passes every event on."""
        if isinstance(event, Metrics):
            with self.path.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps({"step": event.step, **event.values}) + "\n")
        self._sink.emit(event)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Returns the records in order; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(json.loads(line))
    return records


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
