"""Files that are read while they are written."""

import json
from pathlib import Path

from yuan_events import Message
from yuan_jobs.following import EventReader, LineReader, LogLine, LogReader
from yuan_jobs.home import Home
from yuan_jobs.journal import Journal


def home_of(folder: Path) -> Home:
    return Home(folder, "sqlite://", str(folder / "store"))


def test_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    reader = LineReader(tmp_path / "a.log")
    assert reader.read() == []
    with reader.path.open("w") as file:
        file.write("one\ntw")
        file.flush()
        assert reader.read() == ["one"]
        assert reader.read() == []
        file.write("o\n\nthree\r\n")
        file.flush()
        assert reader.read() == ["two", "", "three"]


def test_what_is_no_text_and_what_has_no_end_is_passed_on_all_the_same(tmp_path: Path) -> None:
    reader = LineReader(tmp_path / "a.log")
    reader.path.write_bytes(b"\xff\n" + b"x" * 3_000_000 + b"\n")
    lines: list[str] = []
    while more := reader.read():
        lines += more
    assert lines[0] == "\ufffd"
    assert "".join(lines[1:]) == "x" * 3_000_000
    assert max(map(len, lines)) <= 65_536


def test_events_are_those_of_all_attempts_in_order_without_one_that_was_cut_off(tmp_path: Path) -> None:
    home = home_of(tmp_path)
    for attempt in (1, 2):
        folder = home.attempt_folder("job", attempt)
        folder.mkdir(parents=True)
        with Journal(folder / "events.jsonl") as journal:
            journal.emit(Message(f"of attempt {attempt}"))
        if attempt == 1:
            with (folder / "events.jsonl").open("a") as file:
                file.write('{"at": "2026')
    reader = EventReader(home, "job")
    assert [json.loads(event)["text"] for event in reader.read(1)] == ["of attempt 1"]
    assert [json.loads(event)["text"] for event in reader.read(2)] == ["of attempt 2"]
    assert reader.read(2) == []


def test_logs_are_those_of_every_attempt_and_of_the_ranks(tmp_path: Path) -> None:
    home = home_of(tmp_path)
    for name in ("attempt-1/worker.log", "attempt-2/worker.log", "logs/rank-0.log"):
        path = home.run_folder("job") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"in {name}\n")
    reader = LogReader(home, "job")
    assert reader.read() == [
        LogLine("rank-0", 0, "in logs/rank-0.log"),
        LogLine("worker", 1, "in attempt-1/worker.log"),
        LogLine("worker", 2, "in attempt-2/worker.log"),
    ]
    assert reader.read() == []
