"""Samples cut from documents: the original's index arrays number for number, and what must hold for any lengths."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import (
    IndexedDatasetWriter,
    PackedDataset,
    SampleKey,
    SamplingError,
    finetuning_loss_mask,
    open_dataset,
    pretraining_loss_mask,
    split_bounds,
)
from yuan_corpus.masks import document_position_ids
from yuan_corpus.packing import TokenArray, TokenSource, epochs_needed, sample_index

Sources = Callable[[Sequence[int]], TokenSource]
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum)


def test_index_arrays_and_samples_are_the_originals(golden_samples: dict[str, Any], numbered_tokens: Sources) -> None:
    for case in golden_samples["index_mappings"]["cases"]:
        source = numbered_tokens(case["sizes"])
        packed = PackedDataset(source, range(len(case["sizes"])), case["num_samples"], case["seq_length"], case["seed"])

        assert packed.tokens_per_epoch == case["tokens_per_epoch"]
        assert packed.epochs == case["num_epochs"]
        assert packed.separate_last_epoch == case["separate_last_epoch"]
        for name in ("document", "sample", "shuffle"):
            array = getattr(packed, f"{name}_index")
            short = {"document": "doc"}.get(name, name)
            assert array.tolist() == case[f"{short}_idx"]
            assert array.dtype.name == case[f"{short}_dtype"]
        assert [packed[index].tolist() for index in range(len(packed))] == case["samples"]


def test_split_bounds_are_the_originals(golden_samples: dict[str, Any]) -> None:
    for case in golden_samples["splits"]:
        assert split_bounds(case["split"], case["size"]) == case["bounds"]


def test_a_split_may_be_given_as_numbers() -> None:
    assert split_bounds([0.98, 0.01, 0.01], 1000) == split_bounds("98/1/1", 1000) == [0, 980, 990, 1000]


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=3).filter(lambda shares: sum(shares) > 1e-3), st.integers(0, 500)
)
def test_split_bounds_rise_from_nothing_to_everything(split: list[float], count: int) -> None:
    bounds = split_bounds(split, count)

    assert bounds[0] == 0
    assert bounds[-1] == count
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("split", ["", "a,b", "0,0,0", "-1,2", "1,2,3,4", [float("nan")], [], "inf"])
def test_a_split_that_is_none_is_refused(split: str | list[float]) -> None:
    with pytest.raises(SamplingError, match="split"):
        split_bounds(split, 10)


def walked(lengths: list[int], sequence_length: int) -> list[tuple[int, int]]:
    """The original's walk through documents, one sample after the other: an oracle for the vectorised one."""
    rows = [(0, 0)]
    document = offset = 0
    for _ in range((sum(lengths) - 1) // sequence_length):
        left = sequence_length + 1
        while left > 0:
            here = lengths[document] - offset
            left -= here
            if left <= 0:
                offset += left + here - 1
            else:
                document += 1
                offset = 0
        rows.append((document, offset))
    return rows


@given(LENGTHS, st.integers(1, 40))
@settings(max_examples=300)
def test_samples_start_where_a_walk_through_the_documents_would_start_them(
    lengths: list[int], sequence_length: int
) -> None:
    documents = np.arange(len(lengths), dtype=np.int32)
    rows = sample_index(np.array(lengths, np.int32), documents, sequence_length)

    assert [tuple(row) for row in rows.tolist()] == walked(lengths, sequence_length)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 60), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_unshuffled_samples_are_the_stream_of_documents_with_one_token_shared(
    numbered_tokens: Sources, lengths: list[int], sequence_length: int, num_samples: int, seed: int
) -> None:
    source = numbered_tokens(lengths)
    packed = PackedDataset(source, range(len(lengths)), num_samples, sequence_length, seed)
    stream = np.concatenate([source.get(document) for document in packed.document_index.tolist()])

    assert len(packed) >= num_samples
    assert sorted(packed.shuffle_index.tolist()) == list(range(len(packed)))
    for index, row in enumerate(packed.shuffle_index.tolist()):
        start = row * sequence_length
        assert packed[index].tolist() == stream[start : start + sequence_length + 1].tolist()
        assert packed[index].dtype == np.int64


@given(st.integers(1, 1000), st.integers(1, 100), st.integers(0, 500))
def test_epochs_are_as_few_as_suffice(tokens: int, sequence_length: int, num_samples: int) -> None:
    epochs = epochs_needed(tokens, sequence_length, num_samples)

    assert (epochs * tokens - 1) // sequence_length >= num_samples
    assert epochs == 1 or ((epochs - 1) * tokens - 1) // sequence_length < num_samples


def test_a_last_epoch_that_is_used_in_small_part_comes_last(numbered_tokens: Sources) -> None:
    # 100 tokens make 9 samples of 10 an epoch, 19 in two; of the 21 wanted, 2 come from the third.
    packed = PackedDataset(numbered_tokens([10] * 10), range(10), 21, 10, seed=1)

    assert (packed.epochs, packed.separate_last_epoch) == (3, True)
    assert sorted(packed.document_index[:20].tolist()) == sorted(list(range(10)) * 2)
    assert sorted(packed.document_index[20:].tolist()) == list(range(10))
    assert sorted(packed.shuffle_index[:19].tolist()) == list(range(19))


def test_only_the_documents_of_the_range_occur(numbered_tokens: Sources) -> None:
    packed = PackedDataset(numbered_tokens([20] * 10), range(4, 7), 30, 8, seed=3)

    assert {int(token) // 100 for index in range(len(packed)) for token in packed[index]} == {4, 5, 6}


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(numbered_tokens: Sources) -> None:
    one, same, other = (
        [PackedDataset(numbered_tokens([50] * 5), range(5), 20, 8, seed)[index].tolist() for index in range(20)]
        for seed in (1, 1, 2)
    )

    assert one == same
    assert one != other


def test_a_transform_gets_the_key_of_the_sample_it_changes(numbered_tokens: Sources) -> None:
    keys: list[SampleKey] = []

    def negate(tokens: TokenArray, key: SampleKey) -> TokenArray:
        keys.append(key)
        return -tokens

    plain = PackedDataset(numbered_tokens([41]), range(1), 8, 10, seed=7)
    changed = PackedDataset(numbered_tokens([41]), range(1), 8, 10, seed=7, transform=negate)

    assert [changed[index].tolist() for index in (5, 0, 7)] == [(-plain[index]).tolist() for index in (5, 0, 7)]
    assert [(key.seed, key.index) for key in keys] == [(7, 5), (7, 0), (7, 7)]
    assert [key.epoch for key in keys] == [int(plain.shuffle_index[index]) * 10 // 41 for index in (5, 0, 7)]


def test_documents_on_disk_are_sampled_across_shards(tmp_path: Path, numbered_tokens: Sources) -> None:
    source = numbered_tokens([7, 0, 30, 12])
    for shard, documents in enumerate(([0, 1], [2, 3])):
        with IndexedDatasetWriter(tmp_path / f"part-{shard}", np.uint16) as writer:
            for document in documents:
                writer.add_document(source.get(document))
    on_disk = PackedDataset(open_dataset(tmp_path), range(4), 20, 6, seed=11)
    in_memory = PackedDataset(source, range(4), 20, 6, seed=11)

    assert [on_disk[i].tolist() for i in range(len(on_disk))] == [in_memory[i].tolist() for i in range(len(in_memory))]


def test_a_range_without_tokens_is_refused(numbered_tokens: Sources) -> None:
    with pytest.raises(SamplingError, match="documents 1 to 1 of 2 hold no tokens"):
        PackedDataset(numbered_tokens([3, 4]), range(1, 1), 5, 4, seed=0)


@pytest.mark.parametrize(("samples", "sequence_length", "seed"), [(-1, 4, 0), (1, 0, 0), (1, 4, -1), (1, 4, 2**32)])
def test_arguments_out_of_range_are_refused(
    numbered_tokens: Sources, samples: int, sequence_length: int, seed: int
) -> None:
    with pytest.raises(SamplingError):
        PackedDataset(numbered_tokens([30]), range(1), samples, sequence_length, seed)


@pytest.mark.parametrize("index", [-1, 9])
def test_a_sample_that_does_not_exist_is_an_index_error(numbered_tokens: Sources, index: int) -> None:
    with pytest.raises(IndexError):
        PackedDataset(numbered_tokens([91]), range(1), 9, 10, seed=0)[index]


def test_loss_masks_and_positions_are_the_originals(golden_samples: dict[str, Any]) -> None:
    golden = golden_samples["loss_masks"]
    for case in golden["cases"]:
        sample = np.array(case["tokens"])
        mask = (
            finetuning_loss_mask(sample, golden["eod"], golden["sep"])
            if case["sft_stage"]
            else pretraining_loss_mask(sample, golden["eod"], case["eod_mask_loss"])
        )

        assert mask.tolist() == case["loss_mask"], case["name"]
        if case["reset_position_ids"]:
            assert document_position_ids(sample, golden["eod"]).tolist() == case["position_ids"]


def test_a_batch_of_samples_is_masked_at_once() -> None:
    samples = np.array([[5, 1, 6, 7], [1, 1, 2, 1]])

    assert pretraining_loss_mask(samples, 1, True).tolist() == [[1, 0, 1], [0, 0, 1]]


def test_after_exactly_one_document_end_the_rest_counts_whole() -> None:
    sample = np.array([0, 5, 2, 6, 1, 5, 2, 6])

    assert finetuning_loss_mask(sample, eod_id=1, sep_id=2).tolist() == [0, 1, 1, 1, 1, 1, 1]
