"""Several packed datasets read as one, each giving its share of the samples (YUAN_FACTS B3)."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from yuan_corpus.errors import SamplingError
from yuan_corpus.index_cache import SMALLEST_KEPT, kept_arrays

_MOST_DATASETS = 255

SampleT = TypeVar("SampleT")
SampleT_co = TypeVar("SampleT_co", covariant=True)


class SampleSource(Protocol[SampleT_co]):
    """Samples by index: a `PackedDataset`, or one for fine-tuning."""

    def __len__(self) -> int:
        """Returns the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> SampleT_co:
        """Returns a sample."""
        ...


def normalize_weights(weights: Sequence[float]) -> list[float]:
    """Returns weights that sum to 1.

    Raises:
        SamplingError: if there are none or more than 255, or one is not positive and finite.
    """
    if not 1 <= len(weights) <= _MOST_DATASETS:
        raise SamplingError(f"{len(weights)} datasets to blend; give 1 to {_MOST_DATASETS}")
    if not all(0 < weight < math.inf for weight in weights):
        raise SamplingError(f"weights {list(weights)}: each must be above 0; leave out a dataset that is not wanted")
    total = sum(weights)
    return [weight / total for weight in weights]


def samples_per_dataset(weights: Sequence[float], num_samples: int) -> list[int]:
    """Returns how many samples each dataset of a blend must be built with: its share and half a percent more.

    The margin is the original's: the choice below may run ahead of a share by a fraction of a sample.

    Raises:
        SamplingError: as `normalize_weights`.
    """
    return [math.ceil(num_samples * weight * 1.005) for weight in normalize_weights(weights)]


def blending_index(weights: Sequence[float], num_samples: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Chooses a dataset for every sample: always the one that is furthest behind its share.

    Args:
        weights: positive; normalised.
        num_samples: length of the blend.

    Returns:
        dataset of each sample, uint8 [num_samples], and the index of the sample in it, int64 [num_samples].

    Raises:
        SamplingError: as `normalize_weights`.
    """
    shares = normalize_weights(weights)
    datasets = np.zeros(num_samples, np.uint8)
    samples = np.arange(num_samples, dtype=np.int64)
    if len(shares) == 1:
        return datasets, samples
    # Each choice depends on all before it, so this is a loop; lists, not arrays, keep it near 0.3 us a dataset.
    counts = [0] * len(shares)
    numbered = list(enumerate(shares))
    for step in range(num_samples):
        scale = max(step, 1)
        best, largest = 0, -math.inf
        for number, share in numbered:
            behind = share * scale - counts[number]
            if behind > largest:
                best, largest = number, behind
        datasets[step] = best
        samples[step] = counts[best]
        counts[best] += 1
    return datasets, samples


def kept_blend(
    weights: Sequence[float], num_samples: int, cache: Path | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Returns what `blending_index` does, from the cache where it is there."""
    datasets, samples = kept_arrays(
        cache if num_samples * len(weights) >= SMALLEST_KEPT else None,
        {"weights": list(weights), "samples": num_samples},
        [],
        ("dataset_index", "blend_index"),
        lambda: blending_index(weights, num_samples),
    )
    return datasets, samples


class BlendedDataset(Generic[SampleT]):
    """Samples of several datasets in the proportions of their weights.

    Attributes:
        dataset_index: uint8 [num_samples], which dataset each sample comes from.
        sample_index: int64 [num_samples], which of its samples.
    """

    def __init__(
        self,
        datasets: Sequence[SampleSource[SampleT]],
        weights: Sequence[float],
        num_samples: int,
        *,
        cache: Path | None = None,
    ) -> None:
        """Chooses the samples.

        Args:
            datasets: each with at least `samples_per_dataset` samples.
            weights: one a dataset.
            num_samples: length of the blend.
            cache: folder in which long choices are kept; None: nowhere.

        Raises:
            SamplingError: if the numbers do not fit each other.
        """
        if len(datasets) != len(weights):
            raise SamplingError(f"{len(datasets)} datasets and {len(weights)} weights; give one weight a dataset")
        self._datasets = list(datasets)
        self.dataset_index, self.sample_index = kept_blend(weights, num_samples, cache)
        used = np.bincount(self.dataset_index, minlength=len(datasets))
        for number, dataset in enumerate(self._datasets):
            if len(dataset) < int(used[number]):
                raise SamplingError(
                    f"dataset {number} of the blend has {len(dataset)} samples and would need {int(used[number])}; "
                    "build it with samples_per_dataset"
                )

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.dataset_index)

    def __getitem__(self, index: int) -> SampleT:
        """Returns a sample: of a `PackedDataset` its tokens, int64 [S + 1].

        Raises:
            IndexError: if there is no such sample.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._datasets[int(self.dataset_index[index])][int(self.sample_index[index])]
