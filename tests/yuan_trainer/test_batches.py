"""Samples that are made ahead are the same ones, in the same order, as without."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_models import make_dataset, make_tokenizer, write_text
from yuan_corpus import MaskedSample, Tokenizer
from yuan_corpus.special_tokens import FIM_PREFIX
from yuan_manifest.schema import DataSection
from yuan_trainer.batches import ReadAhead, micro_batch, step_batches
from yuan_trainer.samples import open_samples
from yuan_trainer.specification import DatasetPart, Specification


class Numbered:
    """Sample i holds the number i; remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> np.ndarray:
        self.asked.append(index)
        return np.full(4, index)


@pytest.mark.parametrize("replica", [0, 1, 2])
def test_a_replica_gets_its_samples_in_order_each_made_once(replica: int) -> None:
    source = Numbered()
    ahead = ReadAhead(source, total=24, micro_batch_size=2, replicas=3)
    expected: list[int] = []
    found: list[int] = []
    for step in (1, 2):
        ours = range(replica, 6, 3)
        batches = step_batches(ahead, step, micro_batches=ours, micro_batch_size=2, global_batch_size=12, eod=None)
        found += [int(row[0]) for inputs, _ in batches for row in inputs]
        expected += [(step - 1) * 12 + number * 2 + one for number in ours for one in (0, 1)]
    assert found == expected
    assert source.asked == expected


def test_a_reader_that_goes_back_reads_on_from_there() -> None:
    source = Numbered()
    ahead = ReadAhead(source, total=20, micro_batch_size=2, replicas=1)
    assert [int(ahead[index][0]) for index in (0, 1, 2, 10, 11, 3, 4)] == [0, 1, 2, 10, 11, 3, 4]  # type: ignore[index]


def test_a_failure_in_the_thread_is_raised_where_the_sample_is_asked_for() -> None:
    class Broken:
        def __getitem__(self, index: int) -> np.ndarray:
            raise ValueError(f"sample {index} is broken")

    with pytest.raises(ValueError, match="sample 3 is broken"):
        ReadAhead(Broken(), total=9, micro_batch_size=1, replicas=1)[3]


def test_a_sample_with_a_mask_of_its_own_keeps_it() -> None:
    sample = MaskedSample(np.array([5, 1, 6, 7]), np.array([0, 1, 1], np.float32))
    inputs, (labels, mask) = micro_batch([sample], 0, 1, eod_mask_token=1)  # type: ignore[arg-type]
    assert inputs.tolist() == [[5, 1, 6]]
    assert labels.tolist() == [[1, 6, 7]]
    assert mask.tolist() == [[0, 1, 1]]


def test_training_fills_in_middles_and_validation_does_not(specification: Specification, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt")
    tokenizer = make_tokenizer(tmp_path / "tokenizer", text)
    folder = make_dataset(tmp_path / "dataset", text, Tokenizer.load(tmp_path / "tokenizer"))
    filling = replace(
        specification,
        model=replace(specification.model, vocab_size=tokenizer.vocab_size, eod_token_id=tokenizer.eod_id),
        datasets=(DatasetPart(folder, 1.0), DatasetPart(folder, 2.0)),
        data=DataSection(sequence_length=40, split=[0.8, 0.2, 0], fim_rate=0.5),
        eod_token_id=tokenizer.eod_id,
        validation_samples=16,
        tokenizer=tmp_path / "tokenizer",
    )
    samples, again = open_samples(filling), open_samples(filling)
    assert samples.validation is not None
    mark = tokenizer.special_ids[FIM_PREFIX]
    training, _ = micro_batch(samples.training, 0, 16, None)
    assert (training == mark).any()
    assert not (micro_batch(samples.validation, 0, 16, None)[0] == mark).any()
    # Read from its middle, as a resumed run reads: the same.
    assert torch.equal(micro_batch(again.training, 8, 8, None)[0], training[8:])
