"""A `tokenizer` job: text to a tokenizer folder, and a report of how well it cuts that text.

Or a SentencePiece model that is there already, as the original's, to such a folder: as it is, with its ids.
"""

import itertools
import shutil
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from yuan_corpus import Algorithm, Reading, TextError, Tokenizer, TokenizerError, VocabularyError, train_tokenizer
from yuan_corpus.documents import Format, SkipLog, TextSlice, expand, read_documents, slice_files
from yuan_corpus.sources import open_source
from yuan_corpus.special_tokens import FILE_NAME as SPECIAL_TOKENS
from yuan_corpus.text_files import find_text_files
from yuan_corpus.tokenizer import MODEL_FILE_NAME
from yuan_corpus.tokenizer_merging import Filters
from yuan_corpus.tokenizer_report import ALL, Comparison, Contender, compare
from yuan_corpus.tokenizer_shards import MergedTokenizer, Recipe, Shard, train_merged_tokenizer
from yuan_corpus.training_text import LineSampler
from yuan_data.text import reading, skipped_lines, text_files, tokenizer_file
from yuan_data.tokenize_text import available_cores
from yuan_events import Message, WorkFailed
from yuan_events.printing import counted
from yuan_jobs import WorkContext, WorkResult
from yuan_manifest.schema import TokenizerJob, TokenizerSection

_MEASURED_BYTES = 2_000_000
"""Text that tokenizers are measured on, about; it is spread over the whole corpus."""

_MOST_SHARDS_MEASURED = 16
OWN = "this"
"""The new tokenizer's name in its report."""


def tokenizer_work(context: WorkContext[TokenizerJob]) -> WorkResult:
    """Trains the tokenizer that a manifest asks for, or takes the one that it names.

    Raises:
        CorpusError: if the text, another tokenizer or the vocabulary's size cannot be used.
        Interrupted: if it was asked to stop; nothing of it is kept.
    """
    inputs, wanted = context.job.inputs, context.job.tokenizer
    if inputs.sentencepiece is not None:
        return _taken(context, inputs.sentencepiece)
    files = text_files(inputs)
    how = reading(inputs)
    text = Text(_divided(slice_files(files, how), wanted.shards), how)
    others = [_model_of(context, "tokenizers", index, name) for index, name in enumerate(inputs.tokenizers)]
    compared = [_model_of(context, "compare", index, name) for index, name in enumerate(inputs.compare)]
    context.sink.emit(Message(f"{counted(len(files), 'file')}, {text.size / 1e6:.1f} MB of text"))
    merged: MergedTokenizer | None = None
    try:
        if wanted.merges or others:
            merged = _train_merged(context, text, others)
            tokenizer = merged.tokenizer
        else:
            tokenizer = train_tokenizer(
                text.documents(), context.output, Algorithm(wanted.algorithm.value), wanted.vocab_size,
                sampler=LineSampler(_sample_bytes(wanted), text.size, wanted.seed),
                sink=context.sink, should_stop=context.should_stop,
            )  # fmt: skip
    except VocabularyError as error:
        raise VocabularyError(f"tokenizer.{error}") from error
    comparison = _compared(text, tokenizer, merged, [*others, *compared])
    comparison.write(context.output, _merging(text, merged, wanted))
    skipped = text.skipped()
    for line in skipped_lines(skipped):
        context.sink.emit(Message(line))
    for line in _lines(tokenizer, merged, comparison):
        context.sink.emit(Message(line))
    return WorkResult(
        {
            "vocab_size": tokenizer.vocab_size,
            "algorithm": wanted.algorithm.value,
            "shards": wanted.shards,
            "bytes_per_token": comparison.measures[ALL][OWN].bytes_per_token,
            "digest": tokenizer.digest,
            "files": len(files),
            "source_bytes": text.size,
            "skipped": skipped.count,
        }
    )


def _taken(context: WorkContext[TokenizerJob], path: str) -> WorkResult:
    """Takes over a model as it is; its report is of `inputs.text`, if there is any."""
    inputs = context.job.inputs
    model = tokenizer_file(path)
    try:
        tokenizer = Tokenizer.load(model)
        shutil.copyfile(model, context.output / MODEL_FILE_NAME)
        if (table := model.with_name(SPECIAL_TOKENS)).exists():
            shutil.copyfile(table, context.output / SPECIAL_TOKENS)
    except TokenizerError as error:
        raise TokenizerError(f"inputs.sentencepiece: {error}") from None
    except OSError as error:
        raise WorkFailed(f"{context.output}: the tokenizer cannot be written ({error.strerror})") from error
    summary = {"vocab_size": tokenizer.vocab_size, "digest": tokenizer.digest}
    if not inputs.text:
        context.sink.emit(Message(f"{tokenizer.vocab_size:,} ids, taken as they are"))
        return WorkResult(summary)
    files, how = text_files(inputs), reading(inputs)
    text = Text(slice_files(files, how), how)
    compared = [_model_of(context, "compare", index, name) for index, name in enumerate(inputs.compare)]
    comparison = _compared(text, tokenizer, None, compared)
    comparison.write(context.output, {})
    for line in _lines(tokenizer, None, comparison):
        context.sink.emit(Message(line))
    measured = comparison.measures[ALL][OWN].bytes_per_token
    return WorkResult({**summary, "bytes_per_token": measured, "files": len(files), "source_bytes": text.size})


@dataclass
class Text:
    """The text of a job, read as often as it is needed.

    Attributes:
        slices: all of it.
        how: it is read.
    """

    slices: Sequence[TextSlice]
    how: Reading
    _skipped: dict[int, SkipLog] = field(default_factory=dict[int, SkipLog])

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(part.size for part in self.slices)

    def documents(self, part: int = 0, parts: int = 1) -> Iterator[str]:
        """Yields the documents of one of several parts, which are runs of slices of nearly equal size."""
        skipped = self._skipped[part] = SkipLog()
        for piece in expand(self.slices[slice(*self._bounds(parts)[part : part + 2])], self.how):
            yield from read_documents(piece, self.how, skipped)

    def part_sizes(self, parts: int) -> list[int]:
        """Returns the bytes of each part."""
        bounds = self._bounds(parts)
        return [sum(piece.size for piece in self.slices[slice(*bounds[part : part + 2])]) for part in range(parts)]

    def _bounds(self, parts: int) -> list[int]:
        ends = list(accumulate(piece.size for piece in self.slices))
        bounds = [0]
        for part in range(1, parts):  # every part has a slice
            fair = bisect_left(ends, ends[-1] * part / parts) + 1
            bounds.append(min(max(fair, bounds[-1] + 1), len(ends) - parts + part))
        return [*bounds, len(ends)]

    def skipped(self) -> SkipLog:
        """Returns what was left out because it is broken, when the documents were last read."""
        log = SkipLog()
        for part in sorted(self._skipped):
            log.add(self._skipped[part])
        return log

    def spread(self, wanted_bytes: int) -> Iterator[tuple[str, str]]:
        """Yields documents of slices at equal distances, and the names of their files; no more than twice as much."""
        step = max(1, self.size // wanted_bytes)
        size = 0
        for piece in expand(self.slices[::step], self.how):
            for document in read_documents(piece, self.how, SkipLog()):
                yield document, piece.path.name
                size += len(document.encode())
                if size > 2 * wanted_bytes:  # a compressed file is one slice, however long
                    return


def _divided(slices: list[TextSlice], parts: int) -> list[TextSlice]:
    """Returns at least as many slices as parts: where there are fewer, those of lines are cut.

    Raises:
        TextError: if the text cannot be cut into so many.
    """
    if len(slices) < parts:
        cut = [piece for part in slices for piece in _cut(part, -(-parts // len(slices)))]
        slices = cut if len(cut) >= parts else [piece for part in slices for piece in _cut(part, parts)]
    if len(slices) < parts:
        raise TextError(
            f"tokenizer.shards: {parts} parts of a text that can only be read in {len(slices)}; take as many or fewer, "
            "or give it more files"
        )
    return slices


def _cut(part: TextSlice, count: int) -> list[TextSlice]:
    if part.format not in (Format.LINES, Format.JSONL) or part.streamed or part.stop - part.start < count:
        return [part]
    bounds = [part.start + (part.stop - part.start) * number // count for number in range(count + 1)]
    return [replace(part, start=start, stop=stop, size=stop - start) for start, stop in itertools.pairwise(bounds)]


def _sample_bytes(wanted: TokenizerSection) -> int | None:
    return None if wanted.sample_megabytes is None else round(wanted.sample_megabytes * 1e6)


def _train_merged(
    context: WorkContext[TokenizerJob], text: Text, others: Sequence[tuple[str, bytes]]
) -> MergedTokenizer:
    wanted = context.job.tokenizer
    sizes = text.part_sizes(wanted.shards)
    shards = [Shard(lambda part=part: text.documents(part, wanted.shards), size) for part, size in enumerate(sizes)]
    filters = wanted.filters
    recipe = Recipe(
        Algorithm(wanted.algorithm.value),
        wanted.vocab_size,
        wanted.shard_vocab_size or wanted.vocab_size,
        Filters(filters.letters_and_digits, filters.max_han, filters.keyboard),
        wanted.top,
        wanted.added_characters,
        _words(wanted.added_words),
        _sample_bytes(wanted),
        wanted.seed,
    )
    return train_merged_tokenizer(
        shards, others, context.output, recipe,
        workers=available_cores(), sink=context.sink, should_stop=context.should_stop,
    )  # fmt: skip


def _words(patterns: Sequence[str]) -> list[str]:
    words: list[str] = []
    for path in find_text_files(patterns) if patterns else ():
        try:
            with open_source(path) as file:
                words.extend(line.strip() for line in file.read().decode("utf-8-sig").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise TextError(f"tokenizer.added_words: {path}: not words in UTF-8, one a line ({error})") from None
    return [word for word in words if word]


def _model_of(context: WorkContext[TokenizerJob], key: str, index: int, name: str) -> tuple[str, bytes]:
    """Returns a tokenizer's name for the report, which says nothing of this machine's folders, and its model."""
    handle = context.inputs.get(f"{key}[{index}]")
    path = handle.path / MODEL_FILE_NAME if handle is not None else tokenizer_file(name)
    try:
        short = name if handle is not None else path.parent.name if path.name == MODEL_FILE_NAME else path.stem
        return short, path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"inputs.{key}[{index}]: {path}: cannot be read ({error.strerror})") from None


def _compared(
    text: Text, tokenizer: Tokenizer, merged: MergedTokenizer | None, others: Sequence[tuple[str, bytes]]
) -> Comparison:
    contenders = [Contender.of(OWN, tokenizer)]
    if merged is not None and len(merged.shards) > 1:
        shards = merged.shards[:_MOST_SHARDS_MEASURED]
        contenders += [Contender.of(f"shard {number}", shard) for number, shard in enumerate(shards, 1)]
    contenders += [Contender.of_model(name, model) for name, model in dict(others).items()]
    return compare(text.spread(_MEASURED_BYTES), contenders)


def _merging(text: Text, merged: MergedTokenizer | None, wanted: TokenizerSection) -> dict[str, Any]:
    """Returns what the report says of how the vocabulary came about."""
    if merged is None:
        return {}
    merge = merged.merge
    sizes = text.part_sizes(wanted.shards)
    shards = [{"bytes": size, "pieces": shard.piece_count} for size, shard in zip(sizes, merged.shards, strict=True)]
    return {
        "merging": {
            "shards": shards,
            "dropped": dict(merge.dropped),
            "below_top": merge.below_top,
            "added_characters": merge.added_characters,
            "added_words": merge.added_words,
            "taken_over": merge.taken_over,
            "unreachable": merged.unreachable,
        }
    }


def _lines(tokenizer: Tokenizer, merged: MergedTokenizer | None, comparison: Comparison) -> Iterator[str]:
    """Yields what a user is told of the result."""
    if merged is not None:
        merge = merged.merge
        dropped = "".join(f", {count:,} left out by {name}" for name, count in sorted(merge.dropped.items()))
        added = "".join(f", {count:,} of {name}" for name, count in merge.taken_over.items())
        yield (
            f"merged {len(merged.shards)} models: {merge.below_top:,} pieces below the best{dropped}; added "
            f"{merge.added_characters:,} characters, {merge.added_words:,} words{added}"
        )
        if merged.unreachable:
            yield f"{merged.unreachable:,} pieces are never given: even their own text is cut into others"
    own = comparison.measures[ALL][OWN]
    yield f"{tokenizer.vocab_size:,} pieces; {own.bytes_per_token:.2f} bytes of text a token"
    for language, row in comparison.measures.items():
        if language != ALL and len(row) > 1:
            others = ", ".join(f"{name} {measure.bytes_per_token:.2f}" for name, measure in row.items() if name != OWN)
            yield f"{language}: {row[OWN].bytes_per_token:.2f} bytes a token ({others})"
