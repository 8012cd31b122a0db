"""Loss and perplexity on the validation part of a dataset, beside a model that knows only token frequencies."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from yuan_corpus import PackedDataset, ShardedDataset, split_bounds
from yuan_corpus.statistics import count_tokens, unigram_cross_entropy
from yuan_events import EventSink, InputError, Message, Progress
from yuan_model import Yuan, cross_entropy

SAMPLE_SEED = 1234
"""Of the choice of samples: the default seed of training, whose validation samples these then are."""

TOKENS_AT_ONCE = 4096
"""Tokens of one forward, at most (or one sample)."""


@dataclass(frozen=True)
class Perplexity:
    """What was measured.

    Attributes:
        loss: mean over the predicted tokens, nats.
        unigram_loss: the same of a model that knows how frequent each token is in the training part.
        tokens: predicted tokens.
        samples: sequences that they are in.
    """

    loss: float
    unigram_loss: float
    tokens: int
    samples: int

    @property
    def perplexity(self) -> float:
        """Among how many equally likely tokens the model is as unsure."""
        return math.exp(min(self.loss, 700.0))


def measure_perplexity(
    model: Yuan,
    dataset: ShardedDataset,
    *,
    split: Sequence[float],
    sequence_length: int,
    samples: int,
    sink: EventSink,
    stop_if_asked: Callable[[], None],
) -> Perplexity:
    """Measures a model on samples packed from the dataset's validation part, each token at most once.

    Args:
        model: in eval mode.
        dataset: cut by the model's tokenizer.
        split: shares of documents for training, validation, test.
        sequence_length: tokens predicted in each sample.
        samples: how many at most; fewer where the validation part does not hold as many.
        sink: takes progress.
        stop_if_asked: called between forwards; may raise.

    Raises:
        InputError: if a sample is longer than the model's context, or the validation part shorter than one.
    """
    context = model.config.max_position_embeddings
    if sequence_length > context:
        raise InputError(
            f"data.sequence_length: {sequence_length} is more than the model's context of {context} tokens"
        )
    first, last = split_bounds(split, len(dataset))[1:3]
    held = int(dataset.lengths[first:last].sum(dtype=np.int64))
    available = max(0, held - 1) // sequence_length
    if available == 0:
        raise InputError(
            f"data.sequence_length: the validation part ({last - first} documents) holds {held} tokens, a sample "
            f"{sequence_length + 1}; lower it, or raise the second share of data.split"
        )
    count = min(samples, available)
    if count < samples:
        sink.emit(Message(f"the validation part holds {available} samples of {sequence_length} tokens, not {samples}"))
    packed = PackedDataset(dataset, range(first, last), count, sequence_length, SAMPLE_SEED)
    tokens = np.stack([packed[index] for index in range(count)])
    total = 0.0
    at_once = max(1, TOKENS_AT_ONCE // sequence_length)
    device = model.embed_tokens.weight.device
    for start in range(0, count, at_once):
        stop_if_asked()
        sink.emit(Progress("perplexity", start, count, "samples"))
        batch = torch.from_numpy(tokens[start : start + at_once]).to(device)
        with torch.inference_mode():
            total += float(cross_entropy(model(batch[:, :-1]), batch[:, 1:])) * len(batch)
    sink.emit(Progress("perplexity", count, count, "samples"))
    vocabulary = model.config.vocab_size
    labels = np.bincount(tokens[:, 1:].ravel(), minlength=vocabulary).astype(np.int64)
    unigram = unigram_cross_entropy(count_tokens(dataset, range(first), vocabulary), labels)
    return Perplexity(total / count, unigram, count * sequence_length, count)
