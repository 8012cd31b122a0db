"""Samples of questions and answers: what counts in the loss, and how documents are laid into samples."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from yuan_corpus import (
    BlendedDataset,
    DocumentWindows,
    FinetuningSamples,
    PackedDataset,
    SamplingError,
    answer_flags,
    count_unanswered,
    finetuning_loss_mask,
)

EOD, SEP, PAD = 0, 1, 2
QUESTION, ANSWER = 5, 7


class Documents:
    """Documents as lists of ids."""

    def __init__(self, documents: Sequence[Sequence[int]]) -> None:
        self.documents = [np.array(document, np.int64) for document in documents]
        self.lengths = np.array([len(document) for document in documents], np.int32)

    def get(self, item: int, offset: int = 0, length: int | None = None) -> NDArray[np.int64]:
        end = None if length is None else offset + length
        return self.documents[item][offset:end]


TURNS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=3)
"""Tokens of question and answer of each turn of a document."""
CONVERSATIONS = st.lists(TURNS, min_size=1, max_size=8)


def conversation(turns: Sequence[tuple[int, int]]) -> list[int]:
    return [token for question, answer in turns for token in [*[QUESTION] * question, SEP, *[ANSWER] * answer, EOD]]


def samples(source: Documents, layout: DocumentWindows | PackedDataset, *, strict: bool = True) -> FinetuningSamples:
    return FinetuningSamples(source, layout, eod_id=EOD, sep_id=SEP, pad_id=PAD, strict=strict)


def test_an_answer_counts_with_the_marks_at_both_its_ends() -> None:
    document = np.array([5, 5, SEP, 7, 7, EOD])
    assert answer_flags(document, EOD, SEP).tolist() == [0, 0, 1, 1, 1, 1]


def test_later_questions_of_a_conversation_do_not_count() -> None:
    turns_by_eod = np.array([5, SEP, 7, EOD, 5, SEP, 7, EOD])
    assert answer_flags(turns_by_eod, EOD, SEP).tolist() == [0, 1, 1, 1, 0, 1, 1, 1]
    turns_by_sep = np.array([5, SEP, 7, SEP, 5, SEP, 7, EOD])
    assert answer_flags(turns_by_sep, EOD, SEP).tolist() == [0, 1, 1, 1, 0, 1, 1, 1]


def test_a_document_without_an_answer_does_not_count() -> None:
    assert not answer_flags(np.array([5, 5, EOD]), EOD, SEP).any()
    assert answer_flags(np.array([5, SEP, 7, SEP, 5, EOD]), EOD, SEP).tolist() == [0, 1, 1, 1, 0, 0]
    assert answer_flags(np.array([], np.int64), EOD, SEP).tolist() == []


@given(CONVERSATIONS, st.integers(1, 30), st.integers(0, 1000), st.booleans())
@settings(max_examples=200)
def test_questions_never_count_and_answers_always_do(
    conversations: list[list[tuple[int, int]]], length: int, seed: int, stream: bool
) -> None:
    source = Documents([conversation(turns) for turns in conversations])
    everything = range(len(conversations))
    layout = (PackedDataset if stream else DocumentWindows)(source, everything, 12, length, seed)
    for index in range(len(layout)):
        sample = samples(source, layout)[index]
        labels = sample.tokens[1:]
        assert sample.mask.dtype == np.float32
        assert len(sample.mask) == length
        assert (sample.mask[np.isin(labels, [QUESTION, PAD])] == 0).all()
        assert (sample.mask[~np.isin(labels, [QUESTION, PAD])] == 1).all()


@pytest.mark.parametrize(
    "sample",
    [
        [7, 7, EOD, 5, 5, SEP, 7, EOD, 5, 5, 5],  # the tail is cut inside a question
        [5, 5, EOD, 5, SEP, 7, EOD],  # the sample begins inside a question that has no answer
        [7, EOD, 5, 5, SEP, 7, 7],  # exactly one <eod>
        [5, 5, 5, SEP, 7, 7, 7],  # none
        [5, SEP, 7, SEP, 5, SEP, 7, EOD, 7, EOD],  # several turns
    ],
)
def test_what_the_originals_mask_lets_through_does_not_count(sample: list[int]) -> None:
    tokens = np.array([9, *sample])
    original = finetuning_loss_mask(tokens, EOD, SEP)
    assert (original[tokens[1:] == QUESTION] == 1).any()


def test_the_originals_mask_is_there_when_asked_for() -> None:
    source = Documents([[5, SEP, 7, EOD], [5, 5, SEP, 7, 7, EOD], [5, 5, 5, SEP, 7, EOD]])
    layout = PackedDataset(source, range(3), 4, 6, seed=3)
    for index in range(len(layout)):
        sample = samples(source, layout, strict=False)[index]
        assert sample.mask.tolist() == finetuning_loss_mask(sample.tokens, EOD, SEP).tolist()


def test_padding_does_not_count_in_the_originals_mask_either() -> None:
    source = Documents([[5, 5, EOD]])
    sample = samples(source, DocumentWindows(source, range(1), 1, 7, 1), strict=False)[0]
    assert sample.tokens.tolist() == [5, 5, EOD, PAD, PAD, PAD, PAD, PAD]
    assert sample.mask.tolist() == [1, 1, 0, 0, 0, 0, 0]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30).filter(any), st.integers(1, 14), st.integers(0, 99))
@settings(max_examples=200)
def test_every_document_is_in_each_epoch_once_whole_and_as_many_as_fit_are_together(
    lengths: list[int], length: int, seed: int
) -> None:
    source = Documents([[item + 10] * count for item, count in enumerate(lengths)])
    windows = DocumentWindows(source, range(len(lengths)), 5, length, seed)
    room = length + 1
    assert len(windows) >= 5
    first = [windows.pieces(index) for index in range(windows.windows_per_epoch)]
    seen = [piece.document for pieces in first for piece in pieces]
    assert sorted(seen) == [item for item, count in enumerate(lengths) if count]
    for pieces, following in zip(first, [*first[1:], None], strict=True):
        assert all(piece.offset == 0 and piece.length == min(room, lengths[piece.document]) for piece in pieces)
        filled = sum(piece.length for piece in pieces)
        assert 0 < filled <= room
        assert following is None or filled + following[0].length > room
    assert windows.truncated == sum(count > room for count in lengths)
    assert 0 < windows.filled <= 1


def test_epochs_are_in_orders_of_their_own_and_a_sample_is_found_by_its_number() -> None:
    source = Documents([[5, SEP, 7, EOD]] * 40)
    one = DocumentWindows(source, range(40), 120, 3, seed=1)
    same = DocumentWindows(source, range(40), 80, 3, seed=1)
    other = DocumentWindows(source, range(40), 80, 3, seed=2)
    orders = [[one.pieces(epoch * 40 + index)[0].document for index in range(40)] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert [sorted(order) for order in orders] == [list(range(40))] * 3
    assert [same.pieces(index) for index in range(80)] == [one.pieces(index) for index in range(80)]
    assert [other.pieces(index) for index in range(40)] != [one.pieces(index) for index in range(40)]


def test_only_documents_of_the_range_are_used() -> None:
    source = Documents([[item + 10] for item in range(6)])
    windows = DocumentWindows(source, range(2, 5), 3, 1, seed=1)
    used = {piece.document for index in range(len(windows)) for piece in windows.pieces(index)}
    assert used == {2, 3, 4}


def test_several_datasets_are_blended_with_their_masks() -> None:
    source = Documents([[5, SEP, 7, EOD]] * 4)
    parts = [samples(source, DocumentWindows(source, range(4), 5, 7, seed)) for seed in (1, 2)]
    blend = BlendedDataset(parts, [3.0, 1.0], 4)
    assert blend[3].tokens.tolist() == [5, SEP, 7, EOD] * 2
    assert blend[3].mask.tolist() == [1, 1, 1, 0, 1, 1, 1]


def test_documents_without_an_answer_are_counted() -> None:
    assert count_unanswered(Documents([[5, EOD], [5, SEP, 7, EOD], [EOD]]), range(3), SEP) == 2


def test_a_range_without_tokens_is_refused() -> None:
    with pytest.raises(SamplingError, match="documents 1 to 2 of 2 hold no tokens"):
        DocumentWindows(Documents([[5], []]), range(1, 2), 1, 4, 1)
    with pytest.raises(IndexError):
        DocumentWindows(Documents([[5]]), range(1), 1, 4, 1).pieces(1)
