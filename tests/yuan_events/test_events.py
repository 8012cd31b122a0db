"""Events keep what they say through JSON; errors are one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_events import (
    Checkpoint,
    Event,
    InputError,
    Interrupted,
    Message,
    Metrics,
    NullSink,
    Progress,
    RecordingSink,
    TeeSink,
    Text,
    WorkFailed,
    event_from_json,
    event_to_json,
    one_line,
)

numbers = st.floats(allow_nan=False)
words = st.text()
events = st.one_of(
    st.builds(Progress, words, numbers, st.none() | numbers, words, words),
    st.builds(Metrics, st.integers(0), st.dictionaries(words, numbers)),
    st.builds(Message, words, st.sampled_from(["info", "warning", "error"])),
    st.builds(Checkpoint, st.integers(0), words),
    st.builds(Text, st.integers(0), words, st.sampled_from(["prompt", "text", "end"])),
)


@given(events)
def test_an_event_comes_back_from_json_as_it_was(event: Event) -> None:
    assert event_from_json(event_to_json(event)) == event


@given(events)
def test_an_event_is_one_line_of_json_whatever_its_text(event: Event) -> None:
    assert "\n" not in event_to_json(event)


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "3", "null", '{"type": "nonsense"}', '{"type": "message", "txt": "x"}']
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the contract is the class
        event_from_json(line)


def test_a_tee_gives_every_event_to_all_its_sinks_in_order() -> None:
    first, second = RecordingSink(), RecordingSink()
    tee = TeeSink([first, NullSink(), second])
    tee.emit(Message("one"))
    tee.emit(Message("two"))
    assert first.events == second.events == [Message("one"), Message("two")]


def test_an_error_of_ours_is_its_text_on_one_line() -> None:
    assert one_line(InputError("a\n  b\tc")) == "a b c"


def test_an_error_of_others_is_led_by_its_class() -> None:
    assert one_line(KeyError("x")) == "KeyError: 'x'"
    assert one_line(ValueError()) == "ValueError"


def test_errors_know_the_exit_code_of_their_command() -> None:
    assert (WorkFailed("x").exit_code, InputError("x").exit_code, Interrupted("x").exit_code) == (1, 2, 130)
