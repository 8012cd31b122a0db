"""The fast way of encoding has SentencePiece's ids, whatever the text."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import Algorithm, Tokenizer, TokenizerError, segment_encoder, segment_table, train_tokenizer
from yuan_corpus.special_tokens import EOD, SPECIAL_TOKENS


@pytest.fixture(scope="module")
def yuan(shared: Path) -> Tokenizer:
    return Tokenizer.load(shared / "data" / "yuan-tokenizer")


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Tokenizer:
    return train_tokenizer(texts, tmp_path_factory.mktemp("unigram"), Algorithm.UNIGRAM, 1000)


def check_same(tokenizer: Tokenizer, texts: list[str], split: bool = True) -> None:
    encoded = tokenizer.encode_documents(texts, split)
    expected = [[*tokenizer.encode(text, split), tokenizer.eod_id] for text in texts]

    assert encoded.lengths.tolist() == [len(ids) for ids in expected]
    assert encoded.ids.tolist() == [token for ids in expected for token in ids]
    assert encoded.sizes.tolist() == [len(text.encode()) for text in texts]


# Words and fragments that pieces are made of, so that joins happen, and what no piece has.
FRAGMENTS = [
    *SPECIAL_TOKENS, "<s>", "</s>", "<unk>", "<n>", "<", ">", "<se", "ep>", "\u2581", "\u2581the", "\u2583",
    "[SEP]", "\ufeff",
    "的", "中国", "人工智能", "。", "，", "曹操", "\U00020bb7", "🙂", "👨\u200d👩\u200d👧", "e\u0301", "\ufdd0",
    "the", "ing", " ", "  ", "    ", "\n", "\t", "\r\n", "\0", "\x7f", "1", "42", "def f(x):\n    return x", "==",
    "===", "aaaaaaaa", "Ġ", "åľ", "\\frac{a}{b}", "http://", "internationalization", "\u00a0", "\u3000", "\u200b",
]  # fmt: skip
TEXT = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXT, max_size=5), split=st.booleans())
def test_the_ids_of_the_originals_tokenizer_are_sentencepieces(yuan: Tokenizer, texts: list[str], split: bool) -> None:
    check_same(yuan, texts, split)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXT, max_size=5), split=st.booleans())
def test_the_ids_of_our_bpe_tokenizer_are_sentencepieces(tokenizer: Tokenizer, texts: list[str], split: bool) -> None:
    check_same(tokenizer, texts, split)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(TEXT, max_size=5), split=st.booleans())
def test_a_unigram_tokenizer_is_sentencepieces_own_affair(unigram: Tokenizer, texts: list[str], split: bool) -> None:
    check_same(unigram, texts, split)


def test_real_text_is_the_same_when_all_is_new_and_when_all_is_known(yuan: Tokenizer, texts: list[str]) -> None:
    for _ in range(2):
        check_same(yuan, texts)


def test_what_is_remembered_is_bounded_and_forgetting_changes_nothing(
    yuan: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_encoder, "_MOST_SEGMENTS", 50)
    for text in [*texts[:4], *texts[:4]]:
        check_same(yuan, [text])


def test_full_tables_are_begun_anew(yuan: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_encoder, "_WINDOW", 1000)
    for most in (0.0, 0.2):
        monkeypatch.setattr(segment_table, "_MOST_TAKEN", most)
        check_same(yuan, texts[:2])


def test_a_table_keeps_what_fits_and_says_what_does_not() -> None:
    table = segment_table.SegmentTable(2, 6)
    keys = [np.arange(1, 101, dtype=np.uint64), np.arange(100, dtype=np.uint64)]
    ids = np.arange(400, dtype=np.uint32).reshape(100, 4)

    there = table.add(keys, ids)

    found, hit = table.find(keys)
    assert table.full
    assert 40 < there.sum() <= 64
    assert hit.tolist() == there.tolist()
    assert found[hit].tolist() == ids[there].tolist()
    assert not table.find([keys[0], keys[1] + np.uint64(1)])[1].any()


def test_long_text_is_cut_in_windows_without_a_trace(
    yuan: Tokenizer, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_encoder, "_WINDOW", 100)
    monkeypatch.setattr(segment_encoder, "_LOOK", 30)
    check_same(yuan, [*texts[:3], "🙂" * 300, " " * 250 + "x" + "=" * 300, "<sep>" * 100, "\u2581" * 120])


def test_a_stretch_without_a_gap_that_is_too_long_for_memory_is_refused(
    yuan: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_encoder, "_WINDOW", 100)
    monkeypatch.setattr(segment_encoder, "_LOOK", 100)
    monkeypatch.setattr(segment_encoder, "_LONGEST_SEGMENT", 1000)
    with pytest.raises(TokenizerError, match="more than 1,000 characters at a stretch"):
        yuan.encode_documents([" " * 5000])


def test_half_of_a_surrogate_pair_is_refused_not_taken_for_a_special_token(yuan: Tokenizer) -> None:
    for text in ("\udc00", "a\ud800", "\udc01b"):
        with pytest.raises(TokenizerError, match="half of a surrogate pair"):
            yuan.encode_documents(["good", text])


def test_special_strings_that_are_text_never_become_special_ids(yuan: Tokenizer, tokenizer: Tokenizer) -> None:
    text = "".join([*SPECIAL_TOKENS, "<s>", "</s>", "<unk>"])
    for one in (yuan, tokenizer):
        ids = one.encode_documents([text, f"问题<sep>答案{EOD}"], split_at_special_strings=False).ids
        assert set(ids.tolist()) & set(one.special_ids.values()) == {one.eod_id}
        assert (ids == one.eod_id).sum() == 2


def test_random_vocabulary_text_is_the_same(yuan: Tokenizer) -> None:
    # Pieces glued at random: joins across their borders are as likely as can be.
    drawn = random.Random(1)
    pieces = [yuan.piece(drawn.randrange(259, yuan.piece_count)) for _ in range(20_000)]
    check_same(yuan, ["".join(pieces[start : start + 50]) for start in range(0, len(pieces), 50)])


def test_no_documents_are_no_ids(yuan: Tokenizer) -> None:
    encoded = yuan.encode_documents([])
    assert (len(encoded.ids), len(encoded.lengths)) == (0, 0)
    assert yuan.encode_documents(["", ""]).ids.tolist() == [yuan.eod_id] * 2
    assert encoded.ids.dtype == np.int32
