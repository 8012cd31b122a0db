"""A corpus cut into an indexed dataset: files in, `.bin`/`.idx` shards and statistics out.

The result depends on the files, the tokenizer and nothing else: documents keep their order and every byte is the same
whatever the number of workers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus.documents import SLICE_BYTES, Reading, SkipLog, TextSlice, expand, read_documents, slice_files
from yuan_corpus.errors import TextError
from yuan_corpus.indexed_dataset_writer import IndexedDatasetWriter
from yuan_corpus.indexed_layout import dtype_for_vocabulary
from yuan_corpus.sources import Source
from yuan_corpus.statistics import DatasetStatistics, ShardStatistics, write_counts
from yuan_corpus.tokenizer import Tokenizer
from yuan_corpus.worker_processes import ordered_map
from yuan_events import EventSink, NullSink, Progress, WorkFailed

SHARD_BYTES = 4 << 30
"""Size of `.bin` at which the next shard is begun."""


@dataclass(frozen=True)
class EncodedText:
    """What a worker makes of some slices.

    Attributes:
        ids: all documents' ids back to back, in the dataset's dtype, each ending with `<eod>`.
        lengths: int32, tokens of each document.
        text_bytes: UTF-8 bytes of the documents.
        source_bytes: of the slices.
        skipped: what was left out of them because it is broken.
    """

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int32]
    text_bytes: int
    source_bytes: int
    skipped: SkipLog


def tokenize_corpus(
    paths: Sequence[Source],
    tokenizer: Tokenizer,
    output_folder: Path,
    *,
    reading: Reading | None = None,
    skipped: SkipLog | None = None,
    workers: int = 1,
    sink: EventSink | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    shard_bytes: int = SHARD_BYTES,
) -> DatasetStatistics:
    """Writes a dataset folder: `part-00000.bin`/`.idx` and on, `unigram_counts.npy`, and last `statistics.json`.

    Args:
        paths: source files, in order.
        tokenizer: cuts the text; every document gets its `<eod>`.
        output_folder: exists; a killed run leaves files that end in `.tmp` and whole shards there, but no statistics.
        reading: how text is read; None: as it is by default.
        skipped: counts what is broken, if that is to be skipped.
        workers: processes; the result does not depend on it.
        sink: gets progress in MB of source text.
        should_stop: asked several times a second.
        shard_bytes: see SHARD_BYTES.

    Returns:
        what it wrote as `statistics.json`.

    Raises:
        TextError: if there is no text, or it is not UTF-8.
        Interrupted: if `should_stop()`.
        WorkFailed: if the disk is full or a worker died.
    """
    reading, skipped = reading or Reading(), skipped or SkipLog()
    slices = slice_files(paths, reading)
    units = _units(expand(slices, reading))
    if not any(part.streamed for part in slices):
        units = list(units)  # their number is known, and no more processes than that are started
    source_bytes = sum(part.size for part in slices)
    dtype = dtype_for_vocabulary(tokenizer.vocab_size)
    start = partial(_start_encoding, tokenizer, dtype, reading)
    writer = _ShardWriter(output_folder, dtype, shard_bytes)
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    text_bytes = done_bytes = 0
    progress = partial(_report, sink or NullSink(), source_bytes, writer)
    progress(0)
    try:
        with closing(ordered_map(start, units, workers, should_stop)) as encoded, writer:
            for text in encoded:
                writer.add(text)
                counts += np.bincount(text.ids, minlength=tokenizer.vocab_size)
                text_bytes += text.text_bytes
                done_bytes += text.source_bytes
                skipped.add(text.skipped)
                progress(done_bytes)
            if not writer.documents:
                raise TextError(f"no document in {_number(len(paths), 'file')}: all of their text is whitespace")
        write_counts(output_folder, counts)
        statistics = DatasetStatistics(
            documents=writer.documents,
            tokens=writer.tokens,
            text_bytes=text_bytes,
            bytes_per_token=round(text_bytes / writer.tokens, 4),
            files=len(paths),
            source_bytes=source_bytes,
            vocab_size=tokenizer.vocab_size,
            special_ids=tokenizer.special_ids,
            tokenizer_digest=tokenizer.digest,
            dtype=dtype.name,
            shards=tuple(writer.shards),
        )
        statistics.write(output_folder)
    except OSError as error:
        raise WorkFailed(f"{output_folder}: the dataset cannot be written ({error.strerror or error})") from error
    return statistics


def _units(slices: Iterable[TextSlice]) -> Iterator[list[TextSlice]]:
    """Yields slices in groups of about SLICE_BYTES, so that small files do not cost a message each."""
    unit: list[TextSlice] = []
    size = 0
    for part in slices:
        weight = max(part.size, len(part.data or b""))
        if unit and size + weight > SLICE_BYTES:
            yield unit
            unit, size = [], 0
        unit.append(part)
        size += weight
    if unit:
        yield unit


def _start_encoding(
    tokenizer: Tokenizer, dtype: np.dtype[Any], reading: Reading
) -> Callable[[list[TextSlice]], EncodedText]:
    """Is called once in every worker; the tokenizer has just been unpickled there."""
    return partial(_encode, tokenizer, dtype, reading)


def _encode(tokenizer: Tokenizer, dtype: np.dtype[Any], reading: Reading, slices: Sequence[TextSlice]) -> EncodedText:
    skipped = SkipLog()
    ids: list[int] = []
    lengths: list[int] = []
    text_bytes = 0
    before = 0
    for part in slices:
        for document in read_documents(part, reading, skipped):
            ids.extend(tokenizer.encode(document))
            ids.append(tokenizer.eod_id)
            lengths.append(len(ids) - before)
            before = len(ids)
            text_bytes += len(document) if document.isascii() else len(document.encode())
    source_bytes = sum(part.size for part in slices)
    return EncodedText(np.array(ids, dtype), np.array(lengths, np.int32), text_bytes, source_bytes, skipped)


class _ShardWriter:
    """Writes documents to one shard after the other."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], shard_bytes: int) -> None:
        self._folder = folder
        self._dtype = dtype
        self._shard_bytes = shard_bytes
        self._writer: IndexedDatasetWriter | None = None
        self._documents_before = 0
        self.documents = 0
        self.tokens = 0
        self.shards: list[ShardStatistics] = []

    def add(self, text: EncodedText) -> None:
        """Appends documents; they go to one shard."""
        if not len(text.lengths):
            return
        if self._writer is not None and self._writer.token_count * self._dtype.itemsize >= self._shard_bytes:
            self._finish_shard()
        if self._writer is None:
            self._writer = IndexedDatasetWriter(self._folder / f"part-{len(self.shards):05}", self._dtype)
            self._documents_before = self.documents
        self._writer.add_documents(text.ids, text.lengths)
        self.documents += len(text.lengths)
        self.tokens += len(text.ids)

    def _finish_shard(self) -> None:
        if self._writer is not None:
            self._writer.finish()
            name, tokens = self._writer.prefix.name, self._writer.token_count
            self.shards.append(ShardStatistics(name, self.documents - self._documents_before, tokens))
            self._writer = None

    def __enter__(self) -> "_ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self._finish_shard()
        elif self._writer is not None:
            self._writer.discard()


def _report(sink: EventSink, source_bytes: int, writer: _ShardWriter, done_bytes: int) -> None:
    detail = f"{_number(writer.documents, 'document')}, {_number(writer.tokens, 'token')}"
    sink.emit(Progress("tokenize", round(done_bytes / 1e6, 3), round(source_bytes / 1e6, 3), "MB", detail))


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
