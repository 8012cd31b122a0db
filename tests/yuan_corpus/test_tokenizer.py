"""Text to ids and back, with our own tokenizers."""

import hashlib
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import Tokenizer, TokenizerError
from yuan_corpus.special_tokens import SPECIAL_TOKENS

PIECES_OF_TEXT = st.sampled_from(
    [
        " ",
        "  ",
        "\n",
        "\n\n    ",
        "\t",
        "\r\n",
        "def f(x):",
        "北京",
        "🙂",
        "é",
        "<sep>",
        "<eod>",
        "<s>",
        "▁",
        "▅",
        "\ufeff",
        "\0",
    ]
)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TRICKY_TEXT = st.lists(st.one_of(PIECES_OF_TEXT, ANY_TEXT), max_size=12).map("".join)


@given(TRICKY_TEXT)
@settings(max_examples=300, deadline=None)
def test_text_comes_back_exactly_from_its_ids(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(TRICKY_TEXT)
@settings(max_examples=100, deadline=None)
def test_text_comes_back_exactly_when_special_strings_are_plain_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, split_at_special_strings=False)

    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_ids.values())


@given(TRICKY_TEXT)
@settings(max_examples=100, deadline=None)
def test_streamed_pieces_joined_are_the_whole_text(tokenizer: Tokenizer, text: str) -> None:
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(token) for token in tokenizer.encode(text)]

    assert "".join(pieces) + decoder.finish() == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, 999)), st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_a_stream_after_a_prompt_continues_the_prompts_text(tokenizer: Tokenizer, ids: list[int], cut: int) -> None:
    # Bytes that make no character may be joined across the cut, so only whole characters are compared.
    prompt, continuation = ids[:cut], ids[cut:]
    whole = tokenizer.decode(ids)
    decoder = tokenizer.stream_decoder(after=prompt)
    streamed = decoder.push_all(continuation) + decoder.finish()
    if "\ufffd" not in tokenizer.decode(prompt) + streamed:
        assert tokenizer.decode(prompt) + streamed == whole


def test_half_a_character_is_never_streamed(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🙂")
    decoder = tokenizer.stream_decoder()

    assert [piece for token in ids if (piece := decoder.push(token))] == ["🙂"]


def test_a_stream_that_ends_inside_a_character_says_so_at_the_end(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.stream_decoder()

    assert decoder.push_all(tokenizer.encode("🙂")[:-1]) == ""
    assert decoder.finish() == "\ufffd"


def test_special_strings_are_one_id_and_what_follows_is_encoded_on_its_own(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("question<sep>answer<eod>")

    assert ids == [
        *tokenizer.encode("question"),
        tokenizer.sep_id,
        *tokenizer.encode("answer"),
        tokenizer.eod_id,
    ]


def test_every_special_token_of_the_family_has_its_own_id(tokenizer: Tokenizer) -> None:
    assert set(tokenizer.special_ids) == set(SPECIAL_TOKENS)
    assert len(set(tokenizer.special_ids.values())) == len(SPECIAL_TOKENS)
    assert all(tokenizer.encode(string) == [token] for string, token in tokenizer.special_ids.items())
    assert all(tokenizer.piece(token) == string for string, token in tokenizer.special_ids.items())


def test_digits_are_single_pieces(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.piece(token) for token in tokenizer.encode("1234")]

    assert pieces == ["▁", "1", "2", "3", "4"]


def test_indentation_is_few_pieces(tokenizer: Tokenizer) -> None:
    # The dummy prefix, the newline, eight spaces, the word.
    assert len(tokenizer.encode("\n        return")) <= 4


def test_the_digest_is_that_of_the_two_files(tokenizer: Tokenizer, tokenizer_folder: Path) -> None:
    content = b"".join((tokenizer_folder / name).read_bytes() for name in ("tokenizer.model", "special_tokens.json"))

    assert tokenizer.digest == hashlib.sha256(content).hexdigest()


def test_a_tokenizer_survives_pickling(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301

    assert copy.encode("hello<sep>x") == tokenizer.encode("hello<sep>x")
    assert copy.digest == tokenizer.digest


@pytest.mark.parametrize("token", [-1, 1000, 10**12])
def test_an_id_out_of_range_is_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(TokenizerError, match=f"token {token} is out of range: ids go from 0 to 999"):
        tokenizer.decode([5, token])


def test_half_a_surrogate_pair_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"U\+D83D"):
        tokenizer.encode("ab\ud83dc")


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.model: cannot be read"):
        Tokenizer.load(tmp_path)


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")

    with pytest.raises(TokenizerError, match=r"tokenizer\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"<eod>": "1"}',
        '{"<sep>": 4}',
        '{"<eod>": 1, "<sep>": 1}',
        "{}",
        '{"<eod>": 1, "<sep>": 1000000000000}',
    ],
)
def test_a_broken_table_of_special_tokens_is_refused_by_name(
    tmp_path: Path, tokenizer_folder: Path, content: str
) -> None:
    (tmp_path / "tokenizer.model").write_bytes((tokenizer_folder / "tokenizer.model").read_bytes())
    (tmp_path / "special_tokens.json").write_text(content)

    with pytest.raises(TokenizerError, match=r"(special_tokens\.json|tokenizer\.model): ") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
