"""A corpus cut into an indexed dataset: files in, `.bin`/`.idx` shards and statistics out.

The result depends on the files, the tokenizer and the rules and on nothing else: documents keep their order and every
byte is the same whatever the number of workers, and however often the work was interrupted.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
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
from yuan_corpus.shards import SHARD_BYTES, MadeShard, Shard, keep, lay, made_before, plan_shards
from yuan_corpus.shuffling import shuffle_documents
from yuan_corpus.sources import Source, stamp_of
from yuan_corpus.statistics import DatasetStatistics, ShardStatistics, write_counts
from yuan_corpus.tokenizer import Tokenizer
from yuan_corpus.worker_processes import ordered_map
from yuan_events import EventSink, Message, NullSink, Progress, WorkFailed
from yuan_events.printing import counted, duration


@dataclass(frozen=True)
class Cutting:
    """How text becomes ids.

    Attributes:
        tokenizer: cuts the text; every document gets its `<eod>`.
        reading: how text is read.
        cleaning: stages that documents go through before they are cut; what they did is written as `cleaning.json`.
        special_strings: whether `<sep>` and its like in the text are the special tokens, or text like any other.
        rules: what else the outcome follows from, such as the content of files that cleaning reads.
    """

    tokenizer: Tokenizer
    reading: Reading = field(default_factory=Reading)
    cleaning: Sequence[StageSpec] = ()
    special_strings: bool = True
    rules: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored ids."""
        return dtype_for_vocabulary(self.tokenizer.vocab_size)

    def digest_source(self) -> str:
        """Returns all of it as text."""
        stages = [[stage.name, dict(stage.options)] for stage in self.cleaning]
        told = [self.tokenizer.digest, repr(self.reading), stages, self.special_strings, self.rules]
        return json.dumps(told, ensure_ascii=False, default=repr)

    def start(self) -> Callable[[tuple[int, Sequence[TextSlice]]], "EncodedText"]:
        """Is called once in every worker; the tokenizer has just been unpickled there."""
        return partial(_encode, self, Cleaner(self.cleaning) if self.cleaning else None)


@dataclass(frozen=True)
class EncodedText:
    """What a worker makes of some slices.

    Attributes:
        shard: the number of the shard that they belong to.
        ids: all documents' ids back to back, in the dataset's dtype, each ending with `<eod>`.
        lengths: int32, tokens of each document.
        source_bytes: of the slices.
        skipped: what was left out of them because it is broken.
        document_bytes: int64, UTF-8 bytes of each document.
        traces: what cleaning did to each document that was read, those that it dropped included.
        seconds: that each stage took.
    """

    shard: int
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
    shuffle_seed: int | None = None,
) -> DatasetStatistics:
    """Writes a dataset folder: `part-00000.bin`/`.idx` and on, `unigram_counts.npy`, and last `statistics.json`.

    Args:
        paths: source files, in order.
        tokenizer: see Cutting, as `reading`, `cleaning` and `special_strings` are.
        output_folder: exists; a killed run leaves files that end in `.tmp` and whole shards there, but no statistics.
        reading: None: as it is by default.
        skipped: counts what is broken, if that is to be skipped.
        cleaning: none by default.
        special_strings: they are special tokens by default.
        workers: processes; the result does not depend on it.
        sink: gets progress in MB of source text.
        should_stop: asked several times a second.
        shard_bytes: see SHARD_BYTES.
        shuffle_seed: of the order of documents; None: that of the text.

    Returns:
        what it wrote as `statistics.json`.

    Raises:
        TextError: if there is no text, it is not UTF-8, or it changed while it was read.
        Interrupted: if `should_stop()`.
        WorkFailed: if the disk is full or a worker died.
    """
    cutting = Cutting(tokenizer, reading or Reading(), cleaning, special_strings)
    work = CorpusWork(paths, cutting, output_folder, shard_bytes=shard_bytes, shuffle_seed=shuffle_seed)
    work.make(workers=workers, sink=sink, should_stop=should_stop)
    return work.assemble(skipped=skipped, sink=sink, should_stop=should_stop)


class CorpusWork:
    """The cutting of a corpus in two steps: `make` its shards, a few or all, then `assemble` the dataset.

    Attributes:
        shards: all there are.
        output: the dataset's folder.
    """

    def __init__(
        self,
        paths: Sequence[Source],
        cutting: Cutting,
        output: Path,
        *,
        kept: Path | None = None,
        shard_bytes: int = SHARD_BYTES,
        shuffle_seed: int | None = None,
    ) -> None:
        """Looks at the files; reads nothing of them but their beginnings.

        Args:
            paths: source files, in order.
            cutting: how.
            output: a folder that exists, for the dataset and for what is not whole yet.
            kept: a folder for whole shards, in which those of earlier runs and other processes are found; None: none
                is looked for, and they are written to `output`. It is not cleared up here. Stages of cleaning that
                judge documents by those before them begin anew in every run, and so nothing is kept.
            shard_bytes: see SHARD_BYTES.
            shuffle_seed: of the order of documents; None: that of the text.

        Raises:
            TextError: if there is no text, or a file cannot be looked at.
        """
        self._paths = paths
        self._cutting = cutting
        self.output = output
        self._report = CleaningReport(cutting.cleaning)
        self._kept = None if self._report.ordered else kept
        self._shard_bytes = shard_bytes
        self._shuffle_seed = shuffle_seed
        self._stamps = {path: self._stamp(path) for path in paths}
        slices = slice_files(paths, cutting.reading)
        self.shards = plan_shards(slices, self._stamps, cutting.digest_source(), shard_bytes)
        self._made: dict[int, MadeShard] = {}

    @property
    def divisible(self) -> bool:
        """Whether shards can be made apart from one another."""
        return self._kept is not None

    def missing(self) -> list[Shard]:
        """Returns the shards that are not there."""
        if (folder := self._kept) is not None:
            for shard in self.shards:
                if shard.number not in self._made and (made := made_before(shard, folder)) is not None:
                    self._made[shard.number] = made
        return [shard for shard in self.shards if shard.number not in self._made]

    def make(
        self,
        names: Sequence[str] | None = None,
        *,
        workers: int = 1,
        sink: EventSink | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Makes the shards that are missing; of `names`, if given.

        Raises:
            TextError: if text is broken.
            Interrupted: if `should_stop()`; whole shards stay.
            WorkFailed: if the disk is full or a worker died.
        """
        wanted = [shard for shard in self.missing() if names is None or shard.name in names]
        asked_for = [shard for shard in self.shards if names is None or shard.name in names]
        progress = _Progress(sink or NullSink(), asked_for, self._made)
        units = _units(wanted, self._cutting.reading)
        if not any(part.streamed for shard in wanted for part in shard.slices):
            units = list(units)  # their number is known, and no more processes than that are started
        making: _Making | None = None
        try:
            # The disk takes its time for the end of a shard; the next one does not wait for that.
            with (
                ThreadPoolExecutor(1) as background,
                closing(ordered_map(self._cutting.start, units, workers, should_stop)) as encoded,
            ):
                ending: Future[None] | None = None
                for text in encoded:
                    if making is not None and making.shard.number != text.shard:
                        if ending is not None:
                            ending.result()
                        ending, making = background.submit(self._finish, making), None
                    if making is None:
                        making = _Making(self.shards[text.shard], self._cutting, self.output, self._shared_report())
                    making.add(text)
                    progress.add(text.source_bytes, making.documents_added, making.tokens_added)
                if ending is not None:
                    ending.result()
            if making is not None:
                self._finish(making)
        except OSError as error:
            _discard(making)
            raise WorkFailed(f"{self.output}: the dataset cannot be written ({error.strerror or error})") from error
        except BaseException:
            _discard(making)
            raise

    def _shared_report(self) -> CleaningReport | None:
        """Returns the report that all shards go into, where their order matters."""
        return self._report if self._report.ordered else None

    def _finish(self, making: "_Making") -> None:
        try:
            made = making.finish()
            if self._kept is not None:
                keep(made, making.shard, self.output, self._kept)
        except BaseException:
            making.discard()
            raise
        self._made[making.shard.number] = made

    def assemble(
        self,
        *,
        skipped: SkipLog | None = None,
        sink: EventSink | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> DatasetStatistics:
        """Makes the dataset of all shards, which are there.

        Args:
            skipped: takes what was broken.
            sink: gets lines on cleaning, and progress of shuffling.
            should_stop: asked now and then.

        Raises:
            TextError: if there is no document in them, or a file changed since it was first looked at.
            WorkFailed: if the disk is full.
            ValueError: if some are missing.
        """
        if missing := self.missing():
            raise ValueError(f"{missing[0].name} is missing")
        self._refuse_changed()
        skipped, sink = skipped or SkipLog(), sink or NullSink()
        made = [self._made[shard.number] for shard in self.shards]
        for one in made:
            skipped.add(one.skipped)
            if one.cleaning is not None:
                self._report.absorb(one.cleaning, one.seconds)
        tokens, text_bytes = sum(one.tokens for one in made), sum(one.text_bytes for one in made)
        if not tokens:
            why = _why_none(self._report, skipped)
            raise TextError(f"no document in {counted(len(self._paths), 'file')}: {why}")
        try:
            statistics = DatasetStatistics(
                documents=sum(one.documents for one in made),
                tokens=tokens,
                text_bytes=text_bytes,
                bytes_per_token=round(text_bytes / tokens, 4),
                files=len(self._paths),
                source_bytes=sum(shard.size for shard in self.shards),
                vocab_size=self._cutting.tokenizer.vocab_size,
                special_ids=self._cutting.tokenizer.special_ids,
                tokenizer_digest=self._cutting.tokenizer.digest,
                dtype=self._cutting.dtype.name,
                shards=tuple(self._lay([one for one in made if one.documents], sink, should_stop)),
            )
            if not self._cutting.cleaning:  # nobody else has counted what was read
                self._report.absorb({"documents_read": statistics.documents, "stages": []}, ())
            if self._cutting.cleaning or skipped.count:
                self._report.write(self.output, skipped)
            for line in self._report.lines():
                sink.emit(Message(line))
            write_counts(self.output, sum((one.counts for one in made), np.zeros(1, np.int64)))
            statistics.write(self.output)
        except OSError as error:
            raise WorkFailed(f"{self.output}: the dataset cannot be written ({error.strerror or error})") from error
        return statistics

    def _lay(
        self, made: Sequence[MadeShard], sink: EventSink, should_stop: Callable[[], bool]
    ) -> list[ShardStatistics]:
        """Puts the pairs of the shards into the dataset, shuffled if that is asked for."""
        folder = self._kept or self.output
        if self._shuffle_seed is None:
            for one in made:
                lay(one.name, folder, self.output)
            return [ShardStatistics(one.name, one.documents, one.tokens) for one in made]
        if folder == self.output:
            folder = self.output / ".in-order"
            folder.mkdir(exist_ok=True)
            for one in made:
                for path in self.output.glob(f"{one.name}.*"):
                    path.replace(folder / path.name)
        shards = shuffle_documents(
            [folder / one.name for one in made],
            self.output,
            self._shuffle_seed,
            shard_bytes=self._shard_bytes,
            progress=lambda done, total: sink.emit(Progress("shuffle", done, total, "tokens")),
            should_stop=should_stop,
        )
        if folder.parent == self.output:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        return shards

    def _stamp(self, path: Source) -> str:
        """Returns the stamp of a file, or of one that cannot be looked at, where those are left out, the reason."""
        try:
            return stamp_of(path)
        except TextError as error:
            if not self._cutting.reading.skip_broken:
                raise
            return str(error)

    def _refuse_changed(self) -> None:
        for path, stamp in self._stamps.items():
            if self._stamp(path) != stamp:
                raise TextError(f"{path}: changed while it was read; run it again once nothing writes to it")


def _discard(making: "_Making | None") -> None:
    if making is not None:
        making.discard()


def _why_none(report: CleaningReport, skipped: SkipLog) -> str:
    table = report.table(skipped)
    if table["documents_read"]:
        most = max(table["stages"], key=lambda stage: stage["dropped"])
        return f"cleaning dropped all {table['documents_read']:,}, {most['dropped']:,} of them in stage {most['stage']}"
    return f"all of it is broken: {skipped.first[0]}" if skipped.count else "all of their text is whitespace"


# --- what workers do -----------------------------------------------------------------------------------------------


def _units(shards: Iterable[Shard], reading: Reading) -> Iterator[tuple[int, list[TextSlice]]]:
    """Yields slices in groups of about SLICE_BYTES, so that small files do not cost a message each."""
    for shard in shards:
        unit: list[TextSlice] = []
        size = 0
        for part in expand(shard.slices, reading):
            weight = max(part.size, len(part.data or b""))
            if unit and size + weight > SLICE_BYTES:
                yield shard.number, unit
                unit, size = [], 0
            unit.append(part)
            size += weight
        if unit:
            yield shard.number, unit


def _encode(how: Cutting, cleaner: Cleaner | None, unit: tuple[int, Sequence[TextSlice]]) -> EncodedText:
    shard, slices = unit
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
        shard,
        encoded.ids.astype(how.dtype, copy=False),
        encoded.lengths,
        sum(part.size for part in slices),
        skipped,
        encoded.sizes,
        traces,
        [now - then for now, then in zip(cleaner.seconds, seconds, strict=True)] if cleaner else (),
    )


# --- what is made of it --------------------------------------------------------------------------------------------


class _Making:
    """One shard in the making."""

    def __init__(self, shard: Shard, cutting: Cutting, folder: Path, shared_report: CleaningReport | None) -> None:
        self.shard = shard
        self._cutting = cutting
        self._dtype = cutting.dtype
        self._prefix = folder / shard.name
        self._writer: IndexedDatasetWriter | None = None
        self._counts = np.zeros(cutting.tokenizer.vocab_size, np.int64)
        self._text_bytes = 0
        self._skipped = SkipLog()
        self._shared = shared_report is not None
        self._report = shared_report or CleaningReport(cutting.cleaning)
        self._cleaned = bool(cutting.cleaning)
        self.documents_added = self.tokens_added = 0

    def add(self, text: EncodedText) -> None:
        """Appends documents."""
        if self._cleaned:
            text = _admitted(text, self._report, self._cutting)
        self.documents_added, self.tokens_added = len(text.lengths), len(text.ids)
        self._skipped.add(text.skipped)
        if not len(text.lengths):
            return
        if self._writer is None:
            self._writer = IndexedDatasetWriter(self._prefix, self._dtype)
        self._writer.add_documents(text.ids, text.lengths)
        self._counts += np.bincount(text.ids, minlength=len(self._counts))
        self._text_bytes += int(text.document_bytes.sum())

    def finish(self) -> MadeShard:
        """Ends it."""
        documents = tokens = 0
        if (writer := self._writer) is not None:
            writer.finish()
            documents, tokens = writer.item_count, writer.token_count
        own = None if self._shared or not self._cleaned else self._report
        return MadeShard(
            self.shard.name,
            documents,
            tokens,
            self._text_bytes,
            tokens * self._dtype.itemsize,
            self._skipped,
            self._counts,
            None if own is None else own.table(self._skipped),
            () if own is None else list(own.seconds),
        )

    def discard(self) -> None:
        """Removes what was written of it."""
        if self._writer is not None:
            self._writer.discard()


def _admitted(text: EncodedText, report: CleaningReport, how: Cutting) -> EncodedText:
    """Returns the documents that stay, once those before them are known."""
    for number, seconds in enumerate(text.seconds):
        report.seconds[number] += seconds
    verdicts = [(report.judge(trace), not _dropped_before(trace)) for trace in text.traces]
    # A trace of a document that a worker dropped stands for no tokens.
    kept = np.array([verdict.stays and verdict.text is None for verdict, made in verdicts if made], bool)
    changed = [verdict.text for verdict, _ in verdicts if verdict.text is not None]
    if kept.all() and not changed:
        return text
    ids = text.ids[np.repeat(kept, text.lengths)]
    text = replace(text, ids=ids, lengths=text.lengths[kept], document_bytes=text.document_bytes[kept])
    if not changed:
        return text
    encoded = how.tokenizer.encode_documents(changed, how.special_strings)
    anew = np.array([verdict.text is not None for verdict, _ in verdicts if verdict.stays], bool)
    return replace(
        text,
        ids=_merged(anew, text.ids, text.lengths, encoded.ids.astype(how.dtype, copy=False), encoded.lengths),
        lengths=_merged(anew, text.lengths, None, encoded.lengths, None),
        document_bytes=_merged(anew, text.document_bytes, None, encoded.sizes, None),
    )


def _merged(
    second: npt.NDArray[np.bool_],
    one: npt.NDArray[Any],
    one_lengths: npt.NDArray[np.int32] | None,
    other: npt.NDArray[Any],
    other_lengths: npt.NDArray[np.int32] | None,
) -> npt.NDArray[Any]:
    """Returns the items of two arrays in one: `second` tells of each whether it is of the other; None: of length 1."""
    lengths = np.ones(len(second), np.int64)
    if one_lengths is not None and other_lengths is not None:
        lengths[~second], lengths[second] = one_lengths, other_lengths
    of_other = np.repeat(second, lengths)
    merged = np.empty(len(of_other), one.dtype)
    merged[~of_other], merged[of_other] = one, other
    return merged


def _dropped_before(trace: Trace) -> bool:
    last = trace[1][-1]
    return last is not None and last.reason is not None


class _Progress:
    """Reports how far the making has come: MB of source text, documents, tokens, MB/s of this run, time left."""

    def __init__(self, sink: EventSink, shards: Sequence[Shard], made: Mapping[int, MadeShard]) -> None:
        there = [shard for shard in shards if shard.number in made]
        self._sink = sink
        self._total = sum(shard.size for shard in shards)
        self._before = self._done = sum(shard.size for shard in there)
        self._documents = sum(made[shard.number].documents for shard in there)
        self._tokens = sum(made[shard.number].tokens for shard in there)
        self._began = time.monotonic()
        self.add(0, 0, 0)

    def add(self, source_bytes: int, documents: int, tokens: int) -> None:
        """Reports a further step."""
        self._done += source_bytes
        self._documents += documents
        self._tokens += tokens
        detail = f"{counted(self._documents, 'document')}, {counted(self._tokens, 'token')}"
        speed = (self._done - self._before) / max(time.monotonic() - self._began, 1e-6)
        if source_bytes and speed:
            detail += f", {speed / 1e6:.1f} MB/s"
            if self._done < self._total:
                detail += f", {duration((self._total - self._done) / speed)} left"
        self._sink.emit(Progress("tokenize", round(self._done / 1e6, 3), round(self._total / 1e6, 3), "MB", detail))
