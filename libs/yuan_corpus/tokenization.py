"""A corpus cut into an indexed dataset: files in, `.bin`/`.idx` shards and statistics out.

The result depends on the files, the tokenizer and nothing else: documents keep their order and every byte is the same
whatever the number of workers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus.cleaning.pipeline import Cleaner, CleaningReport, StageSpec, Trace
from yuan_corpus.documents import SLICE_BYTES, Reading, SkipLog, TextSlice, expand, read_documents, slice_files
from yuan_corpus.errors import TextError
from yuan_corpus.indexed_dataset_writer import IndexedDatasetWriter
from yuan_corpus.indexed_layout import dtype_for_vocabulary
from yuan_corpus.sources import Source
from yuan_corpus.statistics import DatasetStatistics, ShardStatistics, write_counts
from yuan_corpus.tokenizer import Tokenizer
from yuan_corpus.worker_processes import ordered_map
from yuan_events import EventSink, Message, NullSink, Progress, WorkFailed

SHARD_BYTES = 4 << 30
"""Size of `.bin` at which the next shard is begun."""


@dataclass(frozen=True)
class EncodedText:
    """What a worker makes of some slices.

    Attributes:
        ids: all documents' ids back to back, in the dataset's dtype, each ending with `<eod>`.
        lengths: int32, tokens of each document.
        source_bytes: of the slices.
        skipped: what was left out of them because it is broken.
        document_bytes: int64, UTF-8 bytes of each document.
        traces: what cleaning did to each document that was read, those that it dropped included.
        seconds: that each stage took.
    """

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int32]
    source_bytes: int
    skipped: SkipLog
    document_bytes: npt.NDArray[np.int64]
    traces: Sequence[Trace] = ()
    seconds: Sequence[float] = ()


def tokenize_corpus(
    paths: Sequence[Source],
    tokenizer: Tokenizer,
    output_folder: Path,
    *,
    reading: Reading | None = None,
    skipped: SkipLog | None = None,
    cleaning: Sequence[StageSpec] = (),
    special_strings: bool = True,
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
        cleaning: stages that documents go through before they are cut; what they did is written as `cleaning.json`.
        special_strings: whether `<sep>` and its like in the text are the special tokens, or text like any other.
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
    start = _Encoding(tokenizer, reading, cleaning, special_strings).start
    report = CleaningReport(cleaning)
    writer = _ShardWriter(output_folder, dtype, shard_bytes)
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    text_bytes = done_bytes = 0
    progress = partial(_report, sink or NullSink(), source_bytes, writer)
    progress(0)
    try:
        with closing(ordered_map(start, units, workers, should_stop)) as encoded, writer:
            for text in encoded:
                if cleaning:
                    text = _admitted(text, report)  # noqa: PLW2901
                writer.add(text)
                counts += np.bincount(text.ids, minlength=tokenizer.vocab_size)
                text_bytes += int(text.document_bytes.sum())
                done_bytes += text.source_bytes
                skipped.add(text.skipped)
                progress(done_bytes)
            if not writer.documents:
                raise TextError(f"no document in {_number(len(paths), 'file')}: {_why_none(report, skipped)}")
        if cleaning or skipped.count:
            report.write(output_folder, skipped)
        for line in report.lines():
            (sink or NullSink()).emit(Message(line))
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


def _admitted(text: EncodedText, report: CleaningReport) -> EncodedText:
    """Returns the documents that stay, once those before them are known."""
    for number, seconds in enumerate(text.seconds):
        report.seconds[number] += seconds
    # A trace of a document that a worker dropped stands for no tokens.
    verdicts = [(report.take(trace), trace) for trace in text.traces]
    kept = np.array([stays for stays, trace in verdicts if not _dropped_before(trace)], bool)
    if kept.all():
        return text
    ids = text.ids[np.repeat(kept, text.lengths)]
    return replace(text, ids=ids, lengths=text.lengths[kept], document_bytes=text.document_bytes[kept])


def _dropped_before(trace: Trace) -> bool:
    last = trace[1][-1]
    return last is not None and last.reason is not None


def _why_none(report: CleaningReport, skipped: SkipLog) -> str:
    table = report.table(skipped)
    if table["documents_read"]:
        most = max(table["stages"], key=lambda stage: stage["dropped"])
        return f"cleaning dropped all {table['documents_read']:,}, {most['dropped']:,} of them in stage {most['stage']}"
    return f"all of it is broken: {skipped.first[0]}" if skipped.count else "all of their text is whitespace"


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


@dataclass(frozen=True)
class _Encoding:
    """What workers do to slices."""

    tokenizer: Tokenizer
    reading: Reading
    cleaning: Sequence[StageSpec]
    special_strings: bool

    def start(self) -> Callable[[list[TextSlice]], EncodedText]:
        """Is called once in every worker; the tokenizer has just been unpickled there."""
        return partial(_encode, self, Cleaner(self.cleaning) if self.cleaning else None)


def _encode(how: _Encoding, cleaner: Cleaner | None, slices: Sequence[TextSlice]) -> EncodedText:
    skipped = SkipLog()
    texts: list[str] = []
    traces: list[Trace] = []
    seconds = list(cleaner.seconds) if cleaner else []
    for part in slices:
        documents = read_documents(part, how.reading, skipped)
        if cleaner is None:
            texts.extend(documents)
            continue
        for document in documents:
            text, trace = cleaner.clean(document)
            traces.append(trace)
            if text is not None:
                texts.append(text)
    encoded = how.tokenizer.encode_documents(texts, how.special_strings)
    return EncodedText(
        encoded.ids.astype(dtype_for_vocabulary(how.tokenizer.vocab_size), copy=False),
        encoded.lengths,
        sum(part.size for part in slices),
        skipped,
        encoded.sizes,
        traces,
        [now - then for now, then in zip(cleaner.seconds, seconds, strict=True)] if cleaner else (),
    )


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
