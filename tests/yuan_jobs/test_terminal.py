"""What a person sees of events: bars on a terminal, few plain lines elsewhere, and never an error."""

import io
import os

import pytest

from yuan_events import Checkpoint, Event, Message, Metrics, Progress, Text
from yuan_jobs.terminal import SECONDS_BETWEEN_LINES, JsonLinesSink, TerminalSink


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown(*events: Event, stream: io.StringIO | None = None) -> str:
    out = stream or io.StringIO()
    with TerminalSink(out, clock=Clock()) as sink:
        for event in events:
            sink.emit(event)
    return out.getvalue()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_a_message_is_one_line_and_says_its_level() -> None:
    text = shown(Message("hello"), Message("a [1, 3] :smile: [red]x"), Message("careful", "warning"), Message("a\nb"))
    assert text == "hello\na [1, 3] :smile: [red]x\nwarning: careful\na b\n"


def test_a_long_message_is_neither_wrapped_nor_cut() -> None:
    assert shown(Message("word " * 100)) == "word " * 100 + "\n"


def test_metrics_are_one_readable_line() -> None:
    values = {
        "loss": 5.3124,
        "learning_rate": 9.8e-4,
        "gradient_norm": 0.5,
        "tokens_per_second": 12345.6,
        "tokens": 8192.0,
        "mfu": 0.4123,
        "memory_gib": 1.5,
        "seconds_left": 12000.0,
    }
    expected = (
        "step 12  loss 5.312  learning rate 9.8e-04  gradient norm 0.500  12,346 tokens/s  tokens 8192  MFU 41.2%  "
        "memory 1.50 GiB  3 h 20 min left\n"
    )
    assert shown(Metrics(12, values)) == expected


def test_parts_of_a_small_whole_are_seen() -> None:
    told = shown(
        Progress("cut", 0.04, 0.04, "MB"), Progress("read", 2.5, 2.5, "MB"), Progress("train", 300, 300, "steps")
    )
    assert told.splitlines() == ["cut: 0.04/0.04 MB (100%)", "read: 2.5/2.5 MB (100%)", "train: 300/300 steps (100%)"]


def test_metrics_become_a_line_every_so_often_and_at_the_end() -> None:
    out, clock = io.StringIO(), Clock()
    with TerminalSink(out, clock=clock) as sink:
        for step in range(1, 8):
            sink.emit(Metrics(step, {"loss": step}))
            clock.now += SECONDS_BETWEEN_LINES / 4
    assert out.getvalue().splitlines() == ["step 1  loss 1", "step 5  loss 5", "step 7  loss 7"]


def test_nan_can_be_shown() -> None:
    assert shown(Metrics(1, {"loss": float("nan")})) == "step 1  loss nan\n"


def test_progress_in_a_pipe_is_a_line_every_so_often_and_one_at_the_end() -> None:
    out, clock = io.StringIO(), Clock()
    with TerminalSink(out, clock=clock) as sink:
        for done in range(0, 2001, 250):
            sink.emit(Progress("cut", done, 2000, "documents"))
            clock.now += SECONDS_BETWEEN_LINES / 2
        sink.emit(Progress("cut", 2000, 2000, "documents"))
    assert out.getvalue().splitlines() == [
        "cut: 500/2,000 documents (25%)",
        "cut: 1,000/2,000 documents (50%)",
        "cut: 1,500/2,000 documents (75%)",
        "cut: 2,000/2,000 documents (100%)",
    ]


def test_progress_of_unknown_length_and_of_length_nothing_can_be_shown() -> None:
    assert shown(Progress("count", 5, None, "files"), Progress("none", 0, 0)) == "none: 0/0\n"


def test_streamed_text_is_joined_and_ends_its_line(terminal: Terminal) -> None:
    pieces = [Text(0, "def", "prompt"), Text(0, " main"), Text(0, "():\n"), Text(0, "length", "end"), Message("done")]
    assert shown(*pieces) == "def main():\n\n[length]\ndone\n"


def test_on_a_terminal_there_are_bars_with_the_newest_metrics(terminal: Terminal) -> None:
    text = shown(Metrics(1, {"loss": 2.5}), Progress("train", 3, 10, "steps"), Message("above"), stream=terminal)
    assert "train" in text
    assert "3/10 steps" in text
    assert "loss 2.500" in text
    assert "above" in text


def test_the_cursor_is_given_back_after_bars(terminal: Terminal) -> None:
    text = shown(Progress("train", 3, 10), Text(0, "a", "prompt"), Progress("train", 4, 10), stream=terminal)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2


def test_what_a_model_writes_cannot_move_the_cursor_of_a_terminal(terminal: Terminal) -> None:
    text = shown(Text(0, "p", "prompt"), Text(0, "a\x1b[2Jb\x07\tc"), Message("d\x1b]0;title\x07"), stream=terminal)
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\tc" in text


def test_a_checkpoint_is_a_line() -> None:
    assert shown(Checkpoint(100, "/runs/x")) == "checkpoint after step 100: /runs/x\n"


@pytest.mark.parametrize("kind", [TerminalSink, JsonLinesSink])
def test_a_reader_that_goes_away_breaks_nothing(kind: type[TerminalSink] | type[JsonLinesSink]) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream, kind(stream) as sink:
        for event in (Message("x"), Progress("a", 1, 2), Metrics(1, {"a": 1}), Text(0, "b"), Message("y" * 100000)):
            sink.emit(event)


def test_a_closed_stream_breaks_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    with TerminalSink(stream) as sink:
        sink.emit(Message("x"))
        sink.emit(Progress("a", 1, 1))
