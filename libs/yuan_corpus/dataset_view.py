"""A dataset to look at: what is in it, some of its documents, some of the samples that training would read.

Makes values; how they are printed, drawn (`dataset_page.py`) or sent is not known here.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yuan_corpus import special_tokens
from yuan_corpus.cleaning.pipeline import REPORT_FILE_NAME
from yuan_corpus.errors import CorpusError, SamplingError
from yuan_corpus.languages import language_of
from yuan_corpus.masks import finetuning_loss_mask, pretraining_loss_mask
from yuan_corpus.packing import PackedDataset, Piece
from yuan_corpus.sharded_dataset import ShardedDataset
from yuan_corpus.tokenizer import Tokenizer

LANGUAGE_DOCUMENTS = 200
"""Documents whose language is looked at, drawn at random."""
_LANGUAGE_TOKENS = 512
"""Of the beginning of each of them."""


@dataclass(frozen=True)
class LengthBucket:
    """Documents of `first` to `last` tokens, both included, and all their tokens."""

    first: int
    last: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class LanguageShare:
    """Of documents that were drawn, those in one language, and their tokens."""

    language: str
    documents: int
    tokens: int


@dataclass(frozen=True)
class Details:
    """What a dataset looks like.

    Attributes:
        sources: files, folders and patterns that its text was read from.
        shortest: tokens of a document.
        median: tokens of a document.
        mean: tokens of a document.
        longest: tokens of a document.
        lengths: of all documents.
        languages: of some documents, most tokens first.
        cleaning: content of `cleaning.json`; empty: there is none.
    """

    sources: Sequence[str] = ()
    shortest: int = 0
    median: int = 0
    mean: float = 0.0
    longest: int = 0
    lengths: Sequence[LengthBucket] = ()
    languages: Sequence[LanguageShare] = ()
    cleaning: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class ShownDocument:
    """A document or its beginning.

    Attributes:
        document: its number.
        ids: of the tokens shown.
        pieces: the same as the tokenizer writes them.
        text: the same decoded.
        tokens: of the whole document.
    """

    document: int
    ids: Sequence[int]
    pieces: Sequence[str]
    text: str
    tokens: int


@dataclass(frozen=True)
class ShownSample:
    """A training sample.

    Attributes:
        parts: of documents that it is made of, in order.
        ids: its S + 1 tokens.
        pieces: the same as the tokenizer writes them.
        text: the same decoded.
        in_loss: of each token, whether its prediction counts; never so for the first, which nothing predicts.
    """

    parts: Sequence[Piece]
    ids: Sequence[int]
    pieces: Sequence[str]
    text: str
    in_loss: Sequence[bool]


def describe(
    dataset: ShardedDataset, folder: Path, tokenizer: Tokenizer | None, sources: Sequence[str] = (), seed: int = 0
) -> Details:
    """Returns what a dataset looks like.

    Args:
        dataset: opened.
        folder: of it, where `cleaning.json` may be.
        tokenizer: that cut it; None: languages are not known.
        sources: of its text.
        seed: of the drawing of documents.

    Raises:
        CorpusError: if `cleaning.json` is none, or a token is not the tokenizer's.
    """
    lengths = dataset.lengths
    if not len(lengths):
        return Details(sources, cleaning=_cleaning(folder))
    return Details(
        sources,
        int(lengths.min()),
        int(np.median(lengths)),
        float(lengths.mean()),
        int(lengths.max()),
        length_histogram(lengths),
        _languages(dataset, tokenizer, seed) if tokenizer else (),
        _cleaning(folder),
    )


def length_histogram(lengths: Any) -> list[LengthBucket]:
    """Returns the documents of 0, 1, 2-3, 4-7 … tokens, from the shortest to the longest.

    Args:
        lengths: integers [n], n > 0.
    """
    # The number of binary digits of a length: 0 of 0, 1 of 1, 2 of 2 and 3.
    digits = np.frexp(lengths.astype(np.float64))[1]
    documents = np.bincount(digits)
    tokens = np.bincount(digits, weights=lengths.astype(np.float64))
    return [
        LengthBucket((1 << digit) >> 1, max(0, (1 << digit) - 1), int(documents[digit]), int(tokens[digit]))
        for digit in range(int(digits.min()), len(documents))
    ]


def _languages(dataset: ShardedDataset, tokenizer: Tokenizer, seed: int) -> list[LanguageShare]:
    documents: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for document in _drawn(dataset, LANGUAGE_DOCUMENTS, seed):
        length = int(dataset.lengths[document])
        text = tokenizer.decode(dataset.get(document, 0, min(length, _LANGUAGE_TOKENS)).tolist())
        language = language_of(text)
        documents[language] += 1
        tokens[language] += length
    return [LanguageShare(name, documents[name], tokens[name]) for name, _ in tokens.most_common()]


def _cleaning(folder: Path) -> Mapping[str, Any]:
    path = folder / REPORT_FILE_NAME
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: cannot be read ({error}); tokenize the text anew") from None


def show_documents(
    dataset: ShardedDataset, tokenizer: Tokenizer, count: int, seed: int, most_tokens: int
) -> Iterator[ShownDocument]:
    """Yields documents drawn at random, in their order in the dataset, each cut after `most_tokens`.

    Raises:
        TokenizerError: if a token is not the tokenizer's.
    """
    for document in _drawn(dataset, count, seed):
        whole = int(dataset.lengths[document])
        ids = dataset.get(document, 0, min(whole, most_tokens)).tolist()
        yield ShownDocument(document, ids, [tokenizer.piece(token) for token in ids], tokenizer.decode(ids), whole)


def show_samples(
    dataset: ShardedDataset, tokenizer: Tokenizer, count: int, seed: int, sequence_length: int
) -> Iterator[ShownSample]:
    """Yields the first samples that a training with this seed would read of the whole dataset.

    Loss is that of fine-tuning where a sample has a `<sep>`, else that of pretraining.

    Raises:
        SamplingError: if the dataset has too little text for one.
        TokenizerError: if a token is not the tokenizer's.
    """
    if dataset.token_count <= sequence_length:
        raise SamplingError(
            f"the dataset has {dataset.token_count:,} tokens and a sample of sequence_length {sequence_length:,} "
            f"{sequence_length + 1} tokens; take a shorter sequence length"
        )
    packed = PackedDataset(dataset, range(len(dataset)), count, sequence_length, seed)
    sep = tokenizer.special_ids.get(special_tokens.SEP)
    for index in range(min(count, len(packed))):
        tokens = packed[index]
        answers = sep is not None and bool((tokens == sep).any())
        mask = (
            finetuning_loss_mask(tokens, tokenizer.eod_id, tokenizer.sep_id)
            if answers
            else pretraining_loss_mask(tokens, tokenizer.eod_id)
        )
        ids = tokens.tolist()
        yield ShownSample(
            packed.pieces(index),
            ids,
            [tokenizer.piece(token) for token in ids],
            tokenizer.decode(ids),
            [False, *(mask > 0).tolist()],
        )


def _drawn(dataset: ShardedDataset, count: int, seed: int) -> list[int]:
    chosen = np.random.default_rng(seed).choice(len(dataset), min(count, len(dataset)), replace=False)
    return sorted(chosen.tolist())
