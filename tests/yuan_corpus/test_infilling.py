"""Fill in the middle: the original's outputs for its draws, and what must hold for any."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import Infilling, PackedDataset, SampleKey, Tokenizer, TokenizerError
from yuan_corpus.special_tokens import EOD, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, PAD

from .conftest import CHINESE, NumberedTokens


@pytest.fixture(scope="session")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "data" / "golden" / "yuan_tokenizer_and_fim.json").read_text())


def test_rearranged_samples_are_the_originals(golden: dict[str, Any], shared: Path) -> None:
    tokenizer = Tokenizer.load(shared / "data" / "yuan-tokenizer")
    for case in golden["fim"]:
        infilling = Infilling(tokenizer, case["fim_rate"], case["fim_spm_rate"])
        random = np.random.RandomState(case["seed"])
        sample = np.array(case["input"])
        assert infilling.rearranged(sample, random).tolist() == case["first_draw"], case["name"]
        assert infilling.rearranged(sample, random).tolist() == case["second_draw"], case["name"]


def sample_of(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    ids = [token for text in texts for token in [*tokenizer.encode(text), tokenizer.eod_id]]
    return np.array(ids, np.int64)


def pieces_of(tokenizer: Tokenizer, sample: np.ndarray) -> list[list[int]]:
    """The tokens between <eod>s, and behind the last, without padding."""
    pieces: list[list[int]] = [[]]
    for token in sample.tolist():
        if token == tokenizer.eod_id:
            pieces.append([])
        elif token != tokenizer.pad_id:
            pieces[-1].append(token)
    return pieces


def restored(tokenizer: Tokenizer, piece: list[int]) -> str:
    """The text of a piece that was rearranged, in its first order."""
    marks = {name: tokenizer.special_ids[name] for name in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)}
    assert piece[0] == marks[FIM_PREFIX]
    suffix, middle = piece.index(marks[FIM_SUFFIX]), piece.index(marks[FIM_MIDDLE])
    before, after, inside = piece[1:suffix], piece[suffix + 1 : middle], piece[middle + 1 :]
    # Prefix first: `inside` is the middle. Suffix first: `before` is empty, `inside` is prefix and middle in a row.
    return tokenizer.decode(before) + tokenizer.decode(inside) + tokenizer.decode(after)


@given(
    st.lists(st.sampled_from(["def f(x):\n    return x", CHINESE, "naïve ✓", "a", "x = [1,  2]"]), min_size=1),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_a_rearranged_piece_says_the_same_in_another_order(
    tokenizer: Tokenizer, texts: list[str], spm_rate: float, seed: int
) -> None:
    sample = sample_of(tokenizer, texts)
    room = np.concatenate([sample, np.full(20 * len(texts) + 20, tokenizer.eod_id)])  # so that nothing is cut off
    out = Infilling(tokenizer, 1.0, spm_rate)(room, SampleKey(seed, 0, 0))
    assert len(out) == len(room)
    pieces = pieces_of(tokenizer, out)
    assert len(pieces) == len(texts) + 1
    for text, piece in zip(texts, pieces, strict=False):
        # Where prefix and middle are written in a row, each begins with a dummy prefix of its own.
        found, wanted = restored(tokenizer, piece), tokenizer.decode(tokenizer.encode(text))
        assert found.replace(" ", "") == wanted.replace(" ", "")


def test_a_rate_of_none_changes_nothing_but_empty_pieces(tokenizer: Tokenizer) -> None:
    sample = sample_of(tokenizer, ["one", "two"])
    assert Infilling(tokenizer, 0.0, 0.5)(sample, SampleKey(1, 0, 0)).tolist() == sample.tolist()
    doubled = np.repeat(sample, np.where(sample == tokenizer.eod_id, 2, 1))
    padded = [*sample.tolist(), tokenizer.pad_id, tokenizer.pad_id]
    assert Infilling(tokenizer, 0.0, 0.5)(doubled, SampleKey(1, 0, 0)).tolist() == padded


def test_an_empty_tail_may_become_three_bare_marks(tokenizer: Tokenizer) -> None:
    sample = np.full(5, tokenizer.eod_id)
    out = Infilling(tokenizer, 1.0, 0.0)(sample, SampleKey(1, 0, 0))
    marks = [tokenizer.special_ids[name] for name in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)]
    assert out.tolist() == [*marks, tokenizer.pad_id, tokenizer.pad_id]


def test_a_sample_depends_on_its_key_and_not_on_what_was_read_before(tokenizer: Tokenizer) -> None:
    sample = sample_of(tokenizer, [CHINESE, "def f(x):\n    return x\n" * 3])
    infilling = Infilling(tokenizer, 0.5, 0.5)
    keys = [SampleKey(seed, epoch, index) for seed in (1, 2**32 - 1) for epoch in (0, 3) for index in range(8)]
    once = [infilling(sample, key).tolist() for key in keys]
    again = [Infilling(tokenizer, 0.5, 0.5)(sample, key).tolist() for key in reversed(keys)]
    assert once == again[::-1]
    assert len({tuple(out) for out in once}) > len(keys) // 2


def test_about_the_given_share_of_pieces_is_rearranged(tokenizer: Tokenizer) -> None:
    infilling = Infilling(tokenizer, 0.3, 0.5)
    sample = sample_of(tokenizer, ["one two three"] * 40)
    prefix = tokenizer.special_ids[FIM_PREFIX]
    padded = np.concatenate([sample, np.full(len(sample), tokenizer.eod_id)])
    count = sum(int((infilling(padded, SampleKey(5, 0, index)) == prefix).sum()) for index in range(50))
    assert 0.25 < count / (50 * 41) < 0.35


def test_a_packed_dataset_rearranges_what_it_reads(tokenizer: Tokenizer) -> None:
    source = NumberedTokens([3, 2, 4])
    plain = PackedDataset(source, range(3), 2, 4, 1)
    changed = PackedDataset(source, range(3), 2, 4, 1, transform=Infilling(tokenizer, 1.0, 0.5))
    assert [len(changed[index]) for index in range(len(plain))] == [5] * len(plain)
    assert changed[1].tolist() == changed[1].tolist()


def test_a_tokenizer_without_the_marks_is_refused(tokenizer: Tokenizer) -> None:
    model, ids, _ = tokenizer.__reduce__()[1]
    kept = {name: token for name, token in ids.items() if name in (EOD, PAD)}
    with pytest.raises(TokenizerError, match="<FIM_PREFIX>"):
        Infilling(Tokenizer(model, kept), 0.5, 0.5)
