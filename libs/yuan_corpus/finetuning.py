"""Samples of questions and answers: tokens with the mask of what counts in the loss, packed one of two ways.

Documents are what `tokenize` made, `question<sep>answer<eod>` or several such turns (`masks.answer_flags`). Whole
documents fill a sample as far as they fit and `<pad>` the rest (`DocumentWindows`), or their stream is cut into samples
as for pretraining (`PackedDataset`). Either way a sample depends on its number and the seed alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from yuan_corpus.errors import SamplingError
from yuan_corpus.masks import MaskArray, answer_flags, finetuning_loss_mask
from yuan_corpus.packing import Piece, TokenArray, TokenSource, read_pieces


@dataclass(frozen=True)
class MaskedSample:
    """A sample with its loss mask.

    Attributes:
        tokens: int64 [S + 1].
        mask: float32 [S], of the labels `tokens[1:]`: 1 where one counts.
    """

    tokens: TokenArray
    mask: MaskArray


class SampleLayout(Protocol):
    """Which parts of documents make each sample: a `PackedDataset` or `DocumentWindows`."""

    @property
    def sequence_length(self) -> int:
        """S: a sample has one token more."""
        ...

    def __len__(self) -> int:
        """Returns the number of samples."""
        ...

    def pieces(self, index: int) -> Sequence[Piece]:
        """Returns the parts of a sample, in order; at most S + 1 tokens."""
        ...


class DocumentWindows:
    """Whole documents, in an order shuffled anew each epoch, laid one after the other into samples while they fit.

    A document that is longer than a sample has one to itself and loses its end.

    Attributes:
        sequence_length: S.
        truncated: documents of the range that are too long.
        epochs: how often the documents are gone through.
        windows_per_epoch: samples of the first epoch.
        filled: share of the first epoch's samples that is documents, the rest being padding.
    """

    def __init__(
        self, dataset: TokenSource, document_range: range, num_samples: int, sequence_length: int, seed: int
    ) -> None:
        """Lays out at least `num_samples` samples, whole epochs.

        Args:
            dataset: the documents.
            document_range: those that are used, in steps of 1.
            num_samples: samples wanted.
            sequence_length: S.
            seed: 0 to 2**32 - 1, of the shuffling.

        Raises:
            SamplingError: if the range holds no tokens.
        """
        room = sequence_length + 1
        lengths = dataset.lengths[document_range.start : document_range.stop].astype(np.int64)
        documents = np.flatnonzero(lengths)
        if not len(documents):
            raise SamplingError(
                f"documents {document_range.start} to {document_range.stop} of {len(dataset.lengths)} hold no tokens; "
                "give that part of the split a larger share, or the dataset more text"
            )
        self.sequence_length = sequence_length
        self.truncated = int((lengths > room).sum())
        kept = np.minimum(lengths, room)
        orders: list[npt.NDArray[np.int64]] = []
        starts: list[npt.NDArray[np.int64]] = []
        windows = laid = 0
        while not orders or windows < num_samples:
            # A counter-based generator under RandomState: the same order in every release of numpy.
            random = np.random.RandomState(np.random.Philox(key=[seed, len(orders)]))
            order = documents[random.permutation(len(documents))]
            bounds = window_bounds(kept[order], room)
            orders.append(order)
            starts.append(bounds[:-1] + laid)
            windows, laid = windows + len(bounds) - 1, laid + len(order)
        self.epochs = len(orders)
        self.windows_per_epoch = len(starts[0])
        self.filled = float(kept.sum() / (self.windows_per_epoch * room))
        self._order = np.concatenate(orders) + document_range.start
        self._starts = np.concatenate([*starts, np.array([laid])])
        self._lengths = kept
        self._first = document_range.start

    def __len__(self) -> int:
        """Returns the number of samples, at least the number asked for."""
        return len(self._starts) - 1

    def pieces(self, index: int) -> list[Piece]:
        """Returns a sample's documents.

        Raises:
            IndexError: if there is no such sample.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        documents = self._order[self._starts[index] : self._starts[index + 1]].tolist()
        return [Piece(document, 0, int(self._lengths[document - self._first])) for document in documents]


def window_bounds(lengths: npt.NDArray[np.int64], room: int) -> npt.NDArray[np.int64]:
    """Returns where windows begin when items are laid into them in order, and at last the number of items.

    Args:
        lengths: int64 [n], of the items; none above `room`.
        room: of a window.
    """
    ends = np.cumsum(lengths)
    bounds = [0]
    before = 0
    while bounds[-1] < len(lengths):
        bounds.append(int(np.searchsorted(ends, before + room, side="right")))
        before = int(ends[bounds[-1] - 1])
    return np.array(bounds, np.int64)


class FinetuningSamples:
    """A layout's samples with their masks.

    With `strict` every token is looked at as a part of its whole document: what is a question never counts, wherever
    the sample cuts it, in no turn, and a document without `<sep>` not at all. Without, the mask is the original's
    (`masks.finetuning_loss_mask`), which sees the sample alone and has holes. `<pad>` counts in neither.
    """

    def __init__(
        self, dataset: TokenSource, layout: SampleLayout, *, eod_id: int, sep_id: int, pad_id: int, strict: bool
    ) -> None:
        self._dataset = dataset
        self._layout = layout
        self._eod_id, self._sep_id, self._pad_id = eod_id, sep_id, pad_id
        self._strict = strict

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self._layout)

    def __getitem__(self, index: int) -> MaskedSample:
        """Returns a sample.

        Raises:
            IndexError: if there is no such sample.
        """
        pieces = self._layout.pieces(index)
        length = self._layout.sequence_length + 1
        tokens = read_pieces(self._dataset, pieces, length, fill=self._pad_id)
        filled = sum(piece.length for piece in pieces)
        mask = np.zeros(length - 1, np.float32)
        if not self._strict:
            mask[: filled - 1] = finetuning_loss_mask(tokens[:filled], self._eod_id, self._sep_id)
            return MaskedSample(tokens, mask)
        flags = np.concatenate([self._flags(piece) for piece in pieces])
        mask[: filled - 1] = flags[1:]
        return MaskedSample(tokens, mask)

    def _flags(self, piece: Piece) -> npt.NDArray[np.bool_]:
        from_its_begin = self._dataset.get(piece.document, 0, piece.offset + piece.length)
        return answer_flags(from_its_begin, self._eod_id, self._sep_id)[piece.offset :]


def count_unanswered(dataset: TokenSource, documents: range, sep_id: int) -> int:
    """Returns how many documents have no `<sep>`, and so nothing to learn."""
    return sum(not (dataset.get(document) == sep_id).any() for document in documents)
