"""Where a text ends: stop strings wherever token boundaries fall, and no half characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.yuan_inference.engines import Asked

from yuan_corpus import Tokenizer
from yuan_inference.engine import Engine, FinishReason
from yuan_inference.engine.text import OutputText
from yuan_inference.loaded import LoadedModel


@pytest.fixture(scope="module")
def tokenizer(loaded: LoadedModel) -> Tokenizer:
    return loaded.tokenizer


def spelled(tokenizer: Tokenizer, text: str, stop: list[str], *, keep: bool = False) -> tuple[list[str], str]:
    """Pushes a text's tokens; returns the pieces and what stopped it."""
    prompt = tokenizer.encode("day")
    output = OutputText(tokenizer, prompt, stop, keep=keep)
    pieces: list[str] = []
    for token in tokenizer.encode(f"day{text}")[len(prompt) :]:
        pieces.append(output.push(token))
        if output.stopped_by:
            return pieces, output.stopped_by
    return [*pieces, output.finish()], output.stopped_by


@pytest.mark.parametrize(
    ("text", "stop", "left", "by"),
    [
        (" to a day", [" a"], " to", " a"),
        (" to a day", ["to a d"], " ", "to a d"),
        (" compare thee", ["mpare the", "q"], " co", "mpare the"),
        ("aab", ["ab"], "a", "ab"),
        ("xyxyz", ["xyz"], "xy", "xyz"),
        ("abc", ["c", "bc", "abc"], "", "abc"),
        ("abc", ["b", "abc"], "a", "b"),
        ("你好世界", ["世界"], "你好", "世界"),
        ("ab", ["abc"], "ab", ""),
    ],
)
def test_a_text_ends_before_the_stop_string_that_is_complete_first(
    tokenizer: Tokenizer, text: str, stop: list[str], left: str, by: str
) -> None:
    pieces, stopped_by = spelled(tokenizer, text, stop)
    assert ("".join(pieces), stopped_by) == (left, by)
    kept, _ = spelled(tokenizer, text, stop, keep=True)
    assert "".join(kept) == left + by


@given(text=st.text("abcab ", max_size=20), stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_it_ends_where_one_who_reads_character_by_character_would_end_it(
    tokenizer: Tokenizer, text: str, stop: list[str]
) -> None:
    expected = text
    for end in range(len(text) + 1):
        found = max((one for one in stop if text[:end].endswith(one)), key=len, default=None)
        if found is not None:
            expected = text[: end - len(found)]
            break
    assert "".join(spelled(tokenizer, text, stop)[0]) == expected


def test_no_piece_is_half_a_character(tokenizer: Tokenizer) -> None:
    pieces, _ = spelled(tokenizer, " 😀 naïve 龘", ["zzz"])
    assert "".join(pieces) == " 😀 naïve 龘"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stop_string_ends_a_request_and_frees_it(loaded: LoadedModel) -> None:
    with Engine("tiny", loaded) as engine:
        whole = Asked(engine, [5, 6], max_tokens=30, ignore_eos=True)
        stop = whole.text[4:7]
        assert stop
        asked = Asked(engine, [5, 6], max_tokens=30, ignore_eos=True, stop=(stop,))
        assert asked.done.finish_reason is FinishReason.stop
        assert asked.done.stop_reason == stop
        assert asked.text == whole.text[: whole.text.index(stop)]
        assert len(asked.tokens) < 30
        kept = Asked(engine, [5, 6], max_tokens=30, ignore_eos=True, stop=(stop,), include_stop_str_in_output=True)
        assert kept.text == asked.text + stop
        assert engine.used_blocks == 0


def test_a_stop_token_ends_a_request_and_is_not_in_its_text(loaded: LoadedModel) -> None:
    with Engine("tiny", loaded) as engine:
        whole = Asked(engine, [5, 6], max_tokens=12, ignore_eos=True)
        end = whole.tokens[5]
        asked = Asked(engine, [5, 6], max_tokens=12, ignore_eos=True, stop_token_ids=frozenset({end}))
        assert asked.done.finish_reason is FinishReason.stop
        assert asked.tokens == whole.tokens[: whole.tokens.index(end)]
