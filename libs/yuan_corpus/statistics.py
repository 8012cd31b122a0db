"""What is in a dataset: counts, and how well a model would do that knows only how frequent each token is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus.errors import CorpusError
from yuan_corpus.files import replace_durably, write_text_durably
from yuan_corpus.packing import TokenSource

STATISTICS_FILE_NAME = "statistics.json"
COUNTS_FILE_NAME = "unigram_counts.npy"

CountArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ShardStatistics:
    """One `.bin`/`.idx` pair: its name without suffix, documents and tokens."""

    name: str
    documents: int
    tokens: int


@dataclass(frozen=True)
class DatasetStatistics:
    """Content of `statistics.json`.

    Attributes:
        documents: documents, each ending with `<eod>`.
        tokens: tokens, `<eod>` included.
        text_bytes: UTF-8 bytes of the documents' text.
        bytes_per_token: text_bytes / tokens.
        files: source files.
        source_bytes: their bytes.
        vocab_size: ids of the tokenizer; every id is below it.
        special_ids: its special strings and their ids.
        tokenizer_digest: `Tokenizer.digest` of the tokenizer that cut the text.
        dtype: how ids are stored.
        shards: the pairs, in order.
    """

    documents: int
    tokens: int
    text_bytes: int
    bytes_per_token: float
    files: int
    source_bytes: int
    vocab_size: int
    special_ids: Mapping[str, int]
    tokenizer_digest: str
    dtype: str
    shards: Sequence[ShardStatistics] = field(default_factory=tuple[ShardStatistics, ...])

    def write(self, folder: Path) -> None:
        """Writes `statistics.json`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_text_durably(folder / STATISTICS_FILE_NAME, text + "\n")

    @classmethod
    def read(cls, folder: Path) -> "DatasetStatistics":
        """Reads a dataset folder's `statistics.json`; fields of newer versions are passed over.

        Raises:
            CorpusError: if it is missing or not one.
        """
        path = folder / STATISTICS_FILE_NAME
        try:
            table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            shards = tuple(ShardStatistics(**shard) for shard in table.pop("shards"))
            known = {name: value for name, value in table.items() if name in cls.__dataclass_fields__}
            return cls(**known, shards=shards)
        except OSError as error:
            raise CorpusError(f"{path}: cannot be read ({error.strerror}); this is not a dataset") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorpusError(f"{path}: not a dataset's statistics ({error}); tokenize the text anew") from None


def write_counts(folder: Path, counts: CountArray) -> None:
    """Writes `unigram_counts.npy`: int64 [vocab_size], how often each token occurs."""
    temporary = folder / (COUNTS_FILE_NAME + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, counts.astype("<i8"))
    replace_durably(temporary, folder / COUNTS_FILE_NAME)


def read_counts(folder: Path) -> CountArray:
    """Reads a dataset folder's `unigram_counts.npy`.

    Raises:
        CorpusError: if it is missing or not one.
    """
    path = folder / COUNTS_FILE_NAME
    try:
        return np.load(path, allow_pickle=False).astype(np.int64)
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path}: cannot be read ({error}); tokenize the text anew") from None


def count_tokens(dataset: TokenSource, document_range: range, vocab_size: int) -> CountArray:
    """Returns how often each token occurs in a range of documents, int64 [vocab_size].

    Raises:
        CorpusError: if a token is not below vocab_size.
    """
    counts = np.zeros(vocab_size, np.int64)
    batch: list[npt.NDArray[Any]] = []
    waiting = 0
    for document in document_range:
        batch.append(dataset.get(document))
        waiting += len(batch[-1])
        if waiting >= 1 << 20:
            counts += _count(np.concatenate(batch), vocab_size)
            batch, waiting = [], 0
    return counts + _count(np.concatenate(batch), vocab_size) if batch else counts


def _count(tokens: npt.NDArray[Any], vocab_size: int) -> CountArray:
    if len(tokens) and (int(tokens.max()) >= vocab_size or int(tokens.min()) < 0):
        raise CorpusError(f"token {int(tokens.max())} in a dataset whose vocabulary has {vocab_size}")
    return np.bincount(tokens, minlength=vocab_size).astype(np.int64)


def unigram_cross_entropy(training_counts: CountArray, counts: CountArray) -> float:
    """Returns the loss of a model that knows only how frequent each token was in the training part.

    Its probability of token t is (c_t + 1) / (sum of c + V) with V the number of ids: one is added to every count
    (Laplace), so that tokens that training never saw have one too.

    Args:
        training_counts: int64 [V].
        counts: int64 [V], of the text that is predicted.

    Returns:
        nats a token; comparable with a training loss over the same tokens.

    Raises:
        ValueError: if the two do not have one length, or there is nothing to predict.
    """
    total = int(counts.sum())
    if counts.shape != training_counts.shape or total == 0:
        raise ValueError(f"counts of shapes {training_counts.shape} and {counts.shape}, the latter of {total} tokens")
    smoothed = training_counts.astype(np.float64) + 1.0
    return float(-(counts @ np.log(smoothed / smoothed.sum())) / total)
