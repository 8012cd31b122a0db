"""The metrics file as it is read while a run writes it."""

from pathlib import Path

from yuan_events import Metrics, NullSink
from yuan_trainer.history import HistoryReader, HistorySink, cut_history


def steps(reader: HistoryReader) -> list[tuple[int, int]]:
    return [(record["attempt"], record["step"]) for record in reader.read_new()]


def measure(path: Path, attempt: int, *numbers: int) -> None:
    sink = HistorySink(path, NullSink(), attempt)
    for step in numbers:
        sink.emit(Metrics(step, {"loss": step / attempt}))


def test_every_record_is_returned_once_and_a_line_that_is_being_written_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = HistoryReader(path)
    assert steps(reader) == []
    measure(path, 1, 1, 2)
    assert steps(reader) == [(1, 1), (1, 2)]
    assert steps(reader) == []
    with path.open("a") as file:
        file.write('{"attempt": 1, "ste')
        file.flush()
        assert steps(reader) == []
        file.write('p": 3}\n')
    assert steps(reader) == [(1, 3)]


def test_what_a_resumed_run_measures_anew_is_returned_again_and_what_it_keeps_is_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = HistoryReader(path)
    measure(path, 1, 1, 2, 3, 4)
    assert len(steps(reader)) == 4
    cut_history(path, 2)
    measure(path, 2, 3, 4, 5)
    assert steps(reader) == [(2, 3), (2, 4), (2, 5)]
    cut_history(path, 4)
    assert steps(reader) == []
    measure(path, 3, 5)
    assert steps(reader) == [(3, 5)]
