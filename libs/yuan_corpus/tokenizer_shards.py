"""A tokenizer from models of parts of the text, trained side by side and merged (paper 3.6)."""

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from yuan_corpus import special_tokens
from yuan_corpus.cleaning.characters import code_points
from yuan_corpus.errors import TextError, VocabularyError
from yuan_corpus.files import replace_durably
from yuan_corpus.tokenizer import MODEL_FILE_NAME, Tokenizer
from yuan_corpus.tokenizer_merging import (
    Algorithm,
    Filters,
    Merge,
    count_unreachable,
    merged_scores,
    pieces_of,
    read_model,
    special_ids_of,
)
from yuan_corpus.tokenizer_training import SMALLEST_VOCABULARY, train_tokenizer
from yuan_corpus.training_text import LineSampler
from yuan_events import Event, EventSink, Message, NullSink, Progress, WorkFailed

_STAGE = "train tokenizer"


@dataclass(frozen=True)
class Shard:
    """A part of the text.

    Attributes:
        documents: begins reading it.
        size: its bytes, which weigh its model.
    """

    documents: Callable[[], Iterable[str]]
    size: int


@dataclass(frozen=True)
class Recipe:
    """How models are trained and merged.

    Attributes:
        algorithm: of all models.
        vocab_size: pieces of the result, special tokens and bytes included, without those taken over.
        shard_vocab_size: pieces of a shard's model.
        filters: which pieces are left out.
        top: pieces kept, best first; None: as many as vocab_size has room for.
        added_characters: the most frequent characters of the text that are no pieces, how many of them.
        added_words: added where they are no pieces.
        sample_bytes: of text that all models together are trained on, at most; None: all.
        seed: of that drawing.
    """

    algorithm: Algorithm
    vocab_size: int
    shard_vocab_size: int
    filters: Filters = field(default_factory=Filters)
    top: int | None = None
    added_characters: int = 0
    added_words: Sequence[str] = ()
    sample_bytes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class MergedTokenizer:
    """What was made.

    Attributes:
        tokenizer: the result, written to its folder.
        shards: the shards' models.
        merge: what became of their pieces.
        unreachable: pieces that the result never gives.
    """

    tokenizer: Tokenizer
    shards: Sequence[Tokenizer]
    merge: Merge
    unreachable: int


def train_merged_tokenizer(
    shards: Sequence[Shard],
    others: Sequence[tuple[str, bytes]],
    output_folder: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    sink: EventSink | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> MergedTokenizer:
    """Trains a model of each shard, merges them and writes a tokenizer folder as `train_tokenizer` does.

    The result depends on text, recipe and others alone, not on how many models are trained at once.

    Args:
        shards: parts of the text, in order.
        others: names and `tokenizer.model` bytes of tokenizers whose pieces are taken over last.
        output_folder: exists.
        recipe: how.
        workers: models trained at once.
        sink: gets progress in percent of all models.
        should_stop: asked several times a second.

    Raises:
        TextError: if a shard has no text.
        VocabularyError: if a shard has fewer pieces than are asked of its model.
        TokenizerError: if one of the others is no SentencePiece model.
        Interrupted: if `should_stop()`.
        WorkFailed: if the disk is full or SentencePiece fails for a reason of its own.
    """
    sink = sink or NullSink()
    protos = [(name, read_model(model, name)) for name, model in others]
    try:
        with tempfile.TemporaryDirectory(prefix=".shards-", suffix=".tmp", dir=output_folder) as scratch:
            models = _train_all(shards, Path(scratch), recipe, workers, sink, should_stop)
            loaded = [Tokenizer(model, special_ids_of(model)) for model in models]
            trained = [read_model(model, f"shard {number}") for number, model in enumerate(models, 1)]
            scores = merged_scores(
                [pieces_of(proto) for proto in trained], [shard.size for shard in shards], recipe.algorithm
            )
            merge = Merge(recipe.algorithm, scores)
            _select(merge, shards, recipe, should_stop)
            for name, proto in protos:
                merge.take_over(name, proto)
            model = merge.model(trained[0])
            temporary = Path(scratch) / MODEL_FILE_NAME
            temporary.write_bytes(model)
            special_tokens.write_special_tokens(output_folder, special_ids_of(model))
            replace_durably(temporary, output_folder / MODEL_FILE_NAME)
    except OSError as error:
        raise WorkFailed(f"{output_folder}: the tokenizer cannot be written ({error.strerror or error})") from error
    tokenizer = Tokenizer.load(output_folder)
    sink.emit(Progress(_STAGE, 100, 100, "%", f"{tokenizer.vocab_size} pieces"))
    if recipe.top is None and not others and tokenizer.vocab_size < recipe.vocab_size:
        told = f"only {tokenizer.vocab_size:,} pieces are left of {len(shards)} models and the filters"
        sink.emit(Message(f"{told}, vocab_size is {recipe.vocab_size:,}; raise tokenizer.shard_vocab_size", "warning"))
    return MergedTokenizer(tokenizer, loaded, merge, count_unreachable(model, merge.scores))


def _select(merge: Merge, shards: Sequence[Shard], recipe: Recipe, should_stop: Callable[[], bool]) -> None:
    words = list(dict.fromkeys(recipe.added_words))
    room = recipe.vocab_size - SMALLEST_VOCABULARY - recipe.added_characters - len(words)
    if recipe.top is None and room < 1:
        raise VocabularyError(
            f"vocab_size: {recipe.vocab_size} has no room for {SMALLEST_VOCABULARY} special tokens and bytes, "
            f"{recipe.added_characters} characters, {len(words)} words and a piece of text"
        )
    merge.keep(recipe.filters, recipe.top if recipe.top is not None else room)
    if recipe.added_characters:
        merge.add_characters(_characters(shards, recipe.filters, should_stop), recipe.added_characters)
    merge.add_words(words)


def _train_all(  # noqa: PLR0917
    shards: Sequence[Shard],
    scratch: Path,
    recipe: Recipe,
    workers: int,
    sink: EventSink,
    should_stop: Callable[[], bool],
) -> list[bytes]:
    """Returns the shards' models; where one fails, the others are stopped."""
    total = sum(shard.size for shard in shards)
    failed = threading.Event()
    progress = _SharedProgress(sink, len(shards))

    def train(number: int) -> bytes:
        shard, folder = shards[number], scratch / str(number)
        folder.mkdir()
        limit = None if recipe.sample_bytes is None else max(1, recipe.sample_bytes * shard.size // max(1, total))
        where = f"shard {number + 1} of {len(shards)}"
        try:
            train_tokenizer(
                shard.documents(), folder, recipe.algorithm, recipe.shard_vocab_size,
                sampler=LineSampler(limit, shard.size, recipe.seed + number),
                sink=progress.of(number),
                should_stop=lambda: failed.is_set() or should_stop(),
            )  # fmt: skip
        except VocabularyError as error:
            problem = str(error).removeprefix("vocab_size: ")
            raise VocabularyError(f"shard_vocab_size: {where}: {problem}") from error
        except TextError as error:
            raise TextError(f"{where}: {error}") from error
        return (folder / MODEL_FILE_NAME).read_bytes()

    with ThreadPoolExecutor(max(1, min(workers, len(shards)))) as pool:
        futures = [pool.submit(train, number) for number in range(len(shards))]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            first = next((future for future in futures if future in done and future.exception() is not None), None)
            if first is not None:
                first.result()
            return [future.result() for future in futures]
        finally:
            failed.set()
            pool.shutdown(cancel_futures=True)


def _characters(shards: Sequence[Shard], filters: Filters, should_stop: Callable[[], bool]) -> Iterable[str]:
    """Returns the characters of the text, most frequent first, that filters let through."""
    counts: Counter[int] = Counter()
    for shard in shards:
        for document in shard.documents():
            if should_stop():
                break
            points, numbers = np.unique(code_points(document), return_counts=True)
            counts.update(dict(zip(points.tolist(), numbers.tolist(), strict=True)))
    ordered = sorted(counts, key=lambda point: (-counts[point], point))
    characters = (chr(point) for point in ordered)
    return [one for one in characters if one.isprintable() and not one.isspace() and filters.reason(one) is None]


class _SharedProgress:
    """The progress of several trainings as one."""

    def __init__(self, sink: EventSink, count: int) -> None:
        self._sink, self._percent = sink, [0.0] * count
        self._lock = threading.Lock()

    def of(self, number: int) -> EventSink:
        """Returns the sink of one training."""
        return _Part(self, number)

    def take(self, number: int, event: Event) -> None:
        """Takes an event of one training."""
        with self._lock:
            if not isinstance(event, Progress):
                self._sink.emit(event)
                return
            self._percent[number] = max(self._percent[number], event.done)
            mean = sum(self._percent) / len(self._percent)
            part = f"shard {number + 1} of {len(self._percent)}: {event.detail}"
            self._sink.emit(Progress(_STAGE, round(min(99.0, mean), 1), 100, "%", part))


@dataclass(frozen=True)
class _Part:
    progress: _SharedProgress
    number: int = field(default=0)

    def emit(self, event: Event) -> None:
        """Takes an event."""
        self.progress.take(self.number, event)
