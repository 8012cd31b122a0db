"""Several datasets read as one, in proportion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import BlendedDataset, SamplingError, samples_per_dataset
from yuan_corpus.blending import blending_index
from yuan_corpus.packing import TokenArray

WEIGHTS = st.lists(st.floats(0.01, 10), min_size=1, max_size=5)


class Samples:
    """Sample i of dataset d is [d, i]."""

    def __init__(self, dataset: int, length: int) -> None:
        self.dataset = dataset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TokenArray:
        return np.array([self.dataset, index], np.int64)


def test_the_dataset_furthest_behind_its_share_comes_next_and_the_first_wins_ties() -> None:
    datasets, samples = blending_index([1, 1, 2], 8)

    # Shares minus counts by hand, the fifth choice being a tie: .25 .25 .5 | .25 .25 -.5 | -.5 .5 0 | -.25 -.25 .5 |
    # 0 0 0 | -.75 .25 .5 | -.5 .5 0 | -.25 -.25 .5
    assert datasets.tolist() == [2, 0, 1, 2, 0, 2, 1, 2]
    assert samples.tolist() == [0, 0, 0, 1, 1, 2, 1, 3]
    assert datasets.dtype == np.uint8


@given(WEIGHTS, st.integers(0, 400))
@settings(max_examples=50)
def test_at_every_moment_each_dataset_is_near_its_share(weights: list[float], count: int) -> None:
    datasets, _ = blending_index(weights, count)
    shares = np.array(weights) / sum(weights)
    for step in range(1, count + 1):
        counts = np.bincount(datasets[:step], minlength=len(weights))
        assert np.abs(counts - shares * step).max() < len(weights)


@given(WEIGHTS, st.integers(1, 400))
@settings(max_examples=50)
def test_every_sample_is_read_once_and_in_order(weights: list[float], count: int) -> None:
    datasets, samples = blending_index(weights, count)
    for dataset in range(len(weights)):
        chosen = samples[datasets == dataset]
        assert chosen.tolist() == list(range(len(chosen)))


def test_a_blend_reads_the_samples_it_chose() -> None:
    weights = [3.0, 1.0]
    blend = BlendedDataset([Samples(d, n) for d, n in enumerate(samples_per_dataset(weights, 100))], weights, 100)

    assert len(blend) == 100
    for index in range(100):
        assert blend[index].tolist() == [blend.dataset_index[index], blend.sample_index[index]]
    with pytest.raises(IndexError):
        blend[100]


def test_each_dataset_is_built_with_half_a_percent_more_than_its_share() -> None:
    assert samples_per_dataset([3, 1], 1000) == [754, 252]


@pytest.mark.parametrize("weights", [[], [0.0, 1.0], [-1.0], [float("nan")], [float("inf")], [1.0] * 256])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(SamplingError):
        samples_per_dataset(weights, 10)


def test_a_dataset_that_is_too_short_for_its_share_is_refused() -> None:
    with pytest.raises(SamplingError, match="dataset 1 of the blend has 2 samples and would need 5"):
        BlendedDataset([Samples(0, 10), Samples(1, 2)], [1, 1], 10)


def test_as_many_weights_as_datasets_are_needed() -> None:
    with pytest.raises(SamplingError, match="1 datasets and 2 weights"):
        BlendedDataset([Samples(0, 10)], [1, 1], 10)
