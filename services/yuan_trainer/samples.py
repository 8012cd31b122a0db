"""The samples of a run, from the datasets of its blend: one part to train on, one to validate on."""

from dataclasses import dataclass

import numpy as np

from yuan_corpus import (
    BlendedDataset,
    PackedDataset,
    ShardedDataset,
    count_tokens,
    open_dataset,
    samples_per_dataset,
    split_bounds,
)
from yuan_trainer.batches import Samples
from yuan_trainer.specification import Specification

TRAINING, VALIDATION = 0, 1
"""Positions in `data.split`."""


@dataclass(frozen=True)
class RunSamples:
    """Samples to train on, in the order of global sample numbers, and to validate on (None: no validation)."""

    training: Samples
    validation: Samples | None


def open_samples(specification: Specification) -> RunSamples:
    """Opens a run's datasets and lays out their samples.

    Raises:
        CorpusError: if a dataset cannot be read or a part of its split is empty.
    """
    train = specification.train
    training = _part(specification, TRAINING, train.steps * train.global_batch_size)
    wanted = specification.validation_samples
    validation = _part(specification, VALIDATION, wanted) if wanted else None
    return RunSamples(training, validation)


def unigram_validation_loss(specification: Specification) -> float:
    """Returns what a model that knows only token frequencies loses on the validation samples, nats per token.

    Frequencies are those of the training documents, add-one smoothed over the vocabulary, blended by weight.
    """
    weights = np.array([part.weight for part in specification.datasets])
    frequencies = np.zeros(specification.model.vocab_size, np.float64)
    for part, weight in zip(specification.datasets, weights / weights.sum(), strict=True):
        dataset = open_dataset(part.folder)
        counts = 1 + count_tokens(dataset, _documents(specification, dataset, TRAINING), len(frequencies))
        frequencies += weight * counts / counts.sum()
    validation = _part(specification, VALIDATION, specification.validation_samples)
    labels = np.concatenate([validation[index][1:] for index in range(specification.validation_samples)])
    return float(-np.log(frequencies[labels]).mean())


def _documents(specification: Specification, dataset: ShardedDataset, part: int) -> range:
    bounds = split_bounds(specification.data.split, len(dataset))
    return range(bounds[part], bounds[part + 1])


def _part(specification: Specification, part: int, samples: int) -> Samples:
    weights = [dataset.weight for dataset in specification.datasets]
    wanted = [samples] if len(weights) == 1 else samples_per_dataset(weights, samples)
    packed: list[PackedDataset] = []
    for source, count in zip(specification.datasets, wanted, strict=True):
        dataset = open_dataset(source.folder)
        documents = _documents(specification, dataset, part)
        packed.append(
            PackedDataset(dataset, documents, count, specification.data.sequence_length, specification.train.seed)
        )
    return packed[0] if len(packed) == 1 else BlendedDataset(packed, weights, samples)
