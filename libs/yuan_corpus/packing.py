"""Samples of equal length cut from documents: which documents in which order, and where each sample starts.

The index arrays are those of YUAN_FACTS B3, number for number: split bounds, document index, sample index, shuffle
index. They depend on lengths and seed alone, are built in vectorised numpy, and may be kept between runs
(`index_cache.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from yuan_corpus.errors import SamplingError
from yuan_corpus.index_cache import SMALLEST_KEPT, kept_arrays

IntegerArray = npt.NDArray[Any]
TokenArray = npt.NDArray[np.int64]


class TokenSource(Protocol):
    """Documents of token ids: an `IndexedDataset` or several seen as one (`ShardedDataset`)."""

    @property
    def lengths(self) -> IntegerArray:
        """Tokens of each document, integers [n]."""
        ...

    def get(self, item: int, offset: int = 0, length: int | None = None) -> IntegerArray:
        """Returns `length` tokens of document `item`, from `offset`."""
        ...


@dataclass(frozen=True)
class SampleKey:
    """What a sample is, whoever reads it and in whatever order: the seed of anything random about it.

    Attributes:
        seed: of the dataset.
        epoch: how often its documents had been gone through before it, from 0.
        index: its position among the samples that a reader asks for.
    """

    seed: int
    epoch: int
    index: int


class Piece(NamedTuple):
    """Part of a document: its number, the first token, how many."""

    document: int
    offset: int
    length: int


SampleTransform = Callable[[TokenArray, SampleKey], TokenArray]
"""Changes the S+1 tokens of a sample to S+1 others, from them and the key alone."""


def split_bounds(split: str | Sequence[float], count: int) -> list[int]:
    """Returns where the training, validation and test parts of `count` documents begin and end.

    Args:
        split: up to three shares, not negative, as numbers or as "969, 30, 1" or "98/1/1"; normalised.
        count: documents.

    Returns:
        [0, a, b, count]: part p holds documents bounds[p] to bounds[p + 1] - 1.

    Raises:
        SamplingError: if the shares are not numbers, negative, more than three or all zero.
    """
    shares = _parse_split(split)
    total = sum(shares)
    bounds = [0]
    for share in shares:
        bounds.append(bounds[-1] + round(share / total * count))
    # Rounding may miss the total: the original takes the excess off every boundary but the first. Where that went
    # below 0 it would have failed; here such a part is empty.
    excess = bounds[-1] - count
    return [0] + [max(0, bound - excess) for bound in bounds[1:]]


def _parse_split(split: str | Sequence[float]) -> list[float]:
    parts = split.replace("/", ",").split(",") if isinstance(split, str) else list(split)
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        raise SamplingError(f"split {split!r}: shares must be numbers, as in 0.98, 0.01, 0.01") from None
    if not 1 <= len(shares) <= 3 or not all(0 <= share < float("inf") for share in shares) or sum(shares) <= 0:
        raise SamplingError(f"split {split!r}: it must have one to three shares, none negative, not all zero")
    return shares + [0.0] * (3 - len(shares))


def epochs_needed(tokens_per_epoch: int, sequence_length: int, num_samples: int) -> int:
    """Returns the fewest epochs E with (E * tokens_per_epoch - 1) // sequence_length >= num_samples, at least 1."""
    return max(1, -(-(num_samples * sequence_length + 1) // tokens_per_epoch))


def document_index(
    documents: npt.NDArray[np.int32], epochs: int, random: np.random.RandomState, separate_last_epoch: bool
) -> npt.NDArray[np.int32]:
    """Returns the order in which documents are gone through, shuffled over all epochs at once.

    Args:
        documents: int32 [d], document numbers.
        epochs: how often each occurs.
        random: advanced by one shuffle, or two.
        separate_last_epoch: shuffle the last epoch on its own, after the others.

    Returns:
        int32 [epochs * d].
    """
    if separate_last_epoch and epochs > 1:
        first = document_index(documents, epochs - 1, random, False)
        return np.concatenate([first, document_index(documents, 1, random, False)])
    index = np.tile(documents, epochs)
    random.shuffle(index)
    return index


def sample_index(lengths: IntegerArray, documents: npt.NDArray[np.int32], sequence_length: int) -> IntegerArray:
    """Returns where every sample starts.

    Sample k holds the sequence_length + 1 tokens from number k * sequence_length of the stream that the documents
    make when laid end to end: two samples in a row share one token. Row k + 1 is therefore also the last token of
    sample k.

    Args:
        lengths: integers [n], tokens of each document of the dataset.
        documents: int32 [e], as `document_index` returns it.
        sequence_length: tokens of a sample, less the one it shares.

    Returns:
        int32 (int64 where int32 is too small) [samples + 1, 2]: position in `documents`, token offset there.
    """
    taken = lengths[documents]
    ends = np.cumsum(taken, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    count = max(0, (total - 1) // sequence_length)
    tokens = np.arange(count + 1, dtype=np.int64) * sequence_length
    positions = np.searchsorted(ends, tokens, side="right")
    positions[0] = 0  # as the original has it, also where the first document is empty
    last = np.minimum(positions, max(0, len(ends) - 1))
    offsets = tokens - (ends[last] - taken[last]) if len(ends) else tokens
    small = len(documents) <= np.iinfo(np.int32).max and int(offsets.max()) <= np.iinfo(np.int32).max
    return np.stack([positions, offsets], axis=1).astype(np.int32 if small else np.int64)


def shuffle_index(first: int, total: int, random: np.random.RandomState) -> IntegerArray:
    """Returns the order in which samples are read.

    Args:
        first: samples 0..first-1 are shuffled among themselves, then first..total-1.
        total: number of samples.
        random: advanced by one shuffle, or two where first < total.

    Returns:
        uint32 (int64 where that is too small) [total].
    """
    dtype = np.uint32 if total < np.iinfo(np.uint32).max - 1 else np.int64
    head = np.arange(first, dtype=dtype)
    random.shuffle(head)
    if first == total:
        return head
    tail = np.arange(first, total, dtype=dtype)
    random.shuffle(tail)
    return np.concatenate([head, tail])


class PackedDataset:
    """Shuffled samples of S + 1 tokens cut from a range of documents; the same for everyone who gives the same seed.

    Attributes:
        sequence_length: S.
        tokens_per_epoch: tokens of all documents in the range.
        epochs: how often the documents are gone through to make enough samples.
        separate_last_epoch: whether the last epoch, being used in small part, is shuffled apart.
        document_index: int32, see the function.
        sample_index: int32 [samples + 1, 2], see the function.
        shuffle_index: uint32 [samples], see the function.
    """

    def __init__(
        self,
        dataset: TokenSource,
        document_range: range,
        num_samples: int,
        sequence_length: int,
        seed: int,
        *,
        transform: SampleTransform | None = None,
        cache: Path | None = None,
    ) -> None:
        """Builds the index arrays, or finds them.

        Args:
            dataset: the documents.
            document_range: those that samples are cut from, in steps of 1 (`range(*bounds[0:2])`).
            num_samples: samples wanted; there may be a few more, which complete the last epoch.
            sequence_length: S.
            seed: 0 to 2**32 - 1, of all shuffling.
            transform: what is done to each sample when it is read.
            cache: folder in which large index arrays are kept under a hash of what they are made from; None: nowhere.

        Raises:
            SamplingError: if the range holds no tokens, or arguments are out of their ranges.
        """
        if sequence_length < 1 or num_samples < 0 or not 0 <= seed < 2**32:
            raise SamplingError(
                f"sequence_length {sequence_length}, num_samples {num_samples}, seed {seed}: the first must be "
                "positive, the second not negative, the third from 0 to 4294967295"
            )
        lengths = dataset.lengths[document_range.start : document_range.stop]
        self.tokens_per_epoch = int(lengths.sum(dtype=np.int64))
        if self.tokens_per_epoch == 0:
            raise SamplingError(
                f"documents {document_range.start} to {document_range.stop} of {len(dataset.lengths)} hold no tokens "
                "to cut samples from; give that part of the split a larger share, or the dataset more text"
            )
        self._dataset = dataset
        self._transform = transform
        self._seed = seed
        self.sequence_length = sequence_length
        self.epochs = epochs_needed(self.tokens_per_epoch, sequence_length, num_samples)
        before_last = ((self.epochs - 1) * self.tokens_per_epoch - 1) // sequence_length
        per_epoch = (self.tokens_per_epoch - 1) // sequence_length
        # An epoch of which less than 80 % is used comes last: shuffled in with the others it would leave some
        # documents unseen while others are seen once more.
        self.separate_last_epoch = self.epochs > 1 and num_samples - before_last < int(0.80 * per_epoch)
        self.document_index, self.sample_index, self.shuffle_index = kept_arrays(
            cache if len(lengths) * self.epochs >= SMALLEST_KEPT else None,
            {
                "first": document_range.start, "samples": num_samples, "sequence_length": sequence_length, "seed": seed,
            },
            [lengths],
            ("document_index", "sample_index", "shuffle_index"),
            lambda: self._built(lengths, document_range.start, before_last),
        )  # fmt: skip

    def _built(self, lengths: IntegerArray, first: int, before_last: int) -> tuple[IntegerArray, ...]:
        documents = np.arange(len(lengths), dtype=np.int32)
        random = np.random.RandomState(self._seed)
        order = document_index(documents, self.epochs, random, self.separate_last_epoch)
        samples = sample_index(lengths, order, self.sequence_length)
        total = len(samples) - 1
        shuffled = shuffle_index(before_last if self.separate_last_epoch else total, total, random)
        return order + np.int32(first), samples, shuffled

    def __len__(self) -> int:
        """Returns the number of samples, at least the number asked for."""
        return len(self.shuffle_index)

    def __getitem__(self, index: int) -> TokenArray:
        """Returns the tokens of a sample, int64 [S + 1].

        Raises:
            IndexError: if there is no such sample.
        """
        tokens = read_pieces(self._dataset, self.pieces(index), self.sequence_length + 1)
        if self._transform is None:
            return tokens
        epoch = int(self.shuffle_index[index]) * self.sequence_length // self.tokens_per_epoch
        return self._transform(tokens, SampleKey(self._seed, epoch, index))

    def pieces(self, index: int) -> list[Piece]:
        """Returns which parts of documents a sample is made of.

        Raises:
            IndexError: if there is no such sample.
        """
        if not 0 <= index < len(self.shuffle_index):
            raise IndexError(f"sample {index} of {len(self.shuffle_index)}")
        row = int(self.shuffle_index[index])
        (position, offset), (last_position, last_offset) = self.sample_index[row : row + 2].tolist()
        pieces: list[Piece] = []
        while position <= last_position:
            document = int(self.document_index[position])
            end = last_offset + 1 if position == last_position else int(self._dataset.lengths[document])
            pieces.append(Piece(document, offset, end - offset))
            position, offset = position + 1, 0
        return pieces


def read_pieces(dataset: TokenSource, pieces: Sequence[Piece], length: int, fill: int = 0) -> TokenArray:
    """Returns the tokens of pieces one after the other, int64 [length]; what they leave is `fill`."""
    tokens = np.full(length, fill, np.int64)
    filled = 0
    for piece in pieces:
        tokens[filled : filled + piece.length] = dataset.get(piece.document, piece.offset, piece.length)
        filled += piece.length
    return tokens
