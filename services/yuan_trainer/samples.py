"""The samples of a run, from the datasets of its blend: one part to train on, one to validate on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus import (
    BlendedDataset,
    DocumentWindows,
    FinetuningSamples,
    IndexedDatasetError,
    Infilling,
    PackedDataset,
    ShardedDataset,
    Tokenizer,
    TokenSource,
    count_tokens,
    open_dataset,
    samples_per_dataset,
    split_bounds,
)
from yuan_manifest.schema import Packing
from yuan_trainer.batches import ReadAhead, Samples
from yuan_trainer.specification import DatasetPart, Specification

TRAINING, VALIDATION = 0, 1
"""Positions in `data.split`."""


@dataclass(frozen=True)
class RunSamples:
    """Samples to train on, in the order of global sample numbers, and to validate on (None: no validation)."""

    training: Samples
    validation: Samples | None


class CheckedSource:
    """A dataset whose ids are looked at as they are read: a damaged file is an error with its place, not a bad loss."""

    def __init__(self, dataset: TokenSource, name: str, vocab_size: int) -> None:
        """Wraps a dataset.

        Args:
            dataset: the documents.
            name: of it, for messages.
            vocab_size: every id must be below it.
        """
        self._dataset = dataset
        self._name = name
        self._vocab_size = vocab_size

    @property
    def lengths(self) -> npt.NDArray[Any]:
        """Tokens of each document."""
        return self._dataset.lengths

    def get(self, item: int, offset: int = 0, length: int | None = None) -> npt.NDArray[Any]:
        """Returns tokens of a document.

        Raises:
            IndexedDatasetError: if one is no id of the model's vocabulary.
        """
        tokens = self._dataset.get(item, offset, length)
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._vocab_size:
            wrong = int(tokens[(tokens < 0) | (tokens >= self._vocab_size)][0])
            raise IndexedDatasetError(
                f"{self._name}: document {item} has token {wrong}, and the model's ids end at {self._vocab_size - 1}; "
                "the file is damaged: tokenize the text again"
            )
        return tokens


def open_samples(specification: Specification) -> RunSamples:
    """Opens a run's datasets and lays out their samples.

    Raises:
        CorpusError: if a dataset cannot be read or a part of its split is empty.
    """
    train = specification.train
    total = train.steps * train.global_batch_size
    training = _part(specification, TRAINING, total)
    if specification.data.fim_rate > 0:
        # Tokenizing anew takes milliseconds a sample, which a thread has while the step computes.
        training = ReadAhead(training, total, train.micro_batch_size, specification.replicas)
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
        documents = documents_of(specification.data.split, dataset, TRAINING)
        counts = 1 + count_tokens(dataset, documents, len(frequencies))
        frequencies += weight * counts / counts.sum()
    samples = _plain_part(specification, VALIDATION, specification.validation_samples)
    labels = np.concatenate([samples[index][1:] for index in range(specification.validation_samples)])
    return float(-np.log(frequencies[labels]).mean())


def documents_of(split: list[float], dataset: ShardedDataset, part: int) -> range:
    """Returns the documents of a part of the split."""
    bounds = split_bounds(split, len(dataset))
    return range(bounds[part], bounds[part + 1])


def document_windows(specification: Specification, source: DatasetPart, part: int, samples: int) -> DocumentWindows:
    """Returns how whole documents of a dataset are laid into samples."""
    dataset = open_dataset(source.folder)
    documents = documents_of(specification.data.split, dataset, part)
    seed = specification.train.seed
    return DocumentWindows(dataset, documents, samples, specification.data.sequence_length, seed)


def _part(specification: Specification, part: int, samples: int) -> Samples:
    if specification.finetune is None:
        return _plain_part(specification, part, samples)
    weights, counts = _shares(specification, samples)
    sources = zip(specification.datasets, counts, strict=True)
    answers = [_answers(specification, source, part, count) for source, count in sources]
    if len(answers) == 1:
        return answers[0]
    return BlendedDataset(answers, weights, samples, cache=_index_cache(specification))


def _plain_part(specification: Specification, part: int, samples: int) -> "PackedDataset | BlendedDataset[np.ndarray]":
    weights, counts = _shares(specification, samples)
    infilling = _infilling(specification) if part == TRAINING else None
    packed = [
        _packed(specification, source, part, count, infilling)
        for source, count in zip(specification.datasets, counts, strict=True)
    ]
    if len(packed) == 1:
        return packed[0]
    return BlendedDataset(packed, weights, samples, cache=_index_cache(specification))


def _shares(specification: Specification, samples: int) -> tuple[list[float], list[int]]:
    """Returns the weight of each dataset and the samples that it must have."""
    weights = [dataset.weight for dataset in specification.datasets]
    return weights, [samples] if len(weights) == 1 else samples_per_dataset(weights, samples)


def _infilling(specification: Specification) -> Infilling | None:
    data = specification.data
    if data.fim_rate == 0:
        return None
    if specification.tokenizer is None:
        raise ValueError("data.fim_rate needs the tokenizer's folder")
    return Infilling(Tokenizer.load(specification.tokenizer), data.fim_rate, data.fim_spm_rate)


def _packed(
    specification: Specification, source: DatasetPart, part: int, samples: int, infilling: Infilling | None
) -> PackedDataset:
    dataset = open_dataset(source.folder)
    return PackedDataset(
        _checked(specification, source, dataset),
        documents_of(specification.data.split, dataset, part),
        samples,
        specification.data.sequence_length,
        specification.train.seed,
        transform=infilling,
        cache=_index_cache(specification),
    )


def _index_cache(specification: Specification) -> Path:
    """Returns where large index arrays of the run are kept: what starts it anew finds them, and so do its ranks."""
    return specification.state_root.parent / "index"


def _answers(specification: Specification, source: DatasetPart, part: int, samples: int) -> FinetuningSamples:
    finetune, sep, pad = specification.finetune, specification.sep_token_id, specification.pad_token_id
    if finetune is None or sep is None or pad is None:
        raise ValueError("fine-tuning needs its section, sep_token_id and pad_token_id")
    if finetune.packing == Packing.documents:
        layout = document_windows(specification, source, part, samples)
    else:
        layout = _packed(specification, source, part, samples, None)
    return FinetuningSamples(
        _checked(specification, source, open_dataset(source.folder)),
        layout,
        eod_id=specification.eod_token_id,
        sep_id=sep,
        pad_id=pad,
        strict=finetune.strict_masks,
    )


def _checked(specification: Specification, source: DatasetPart, dataset: TokenSource) -> CheckedSource:
    return CheckedSource(dataset, str(source.folder), specification.model.vocab_size)
