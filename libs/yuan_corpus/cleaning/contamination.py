"""Documents left out because they hold parts of a benchmark."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from yuan_corpus.cleaning.scripts import ngrams, units
from yuan_corpus.cleaning.stage import Dropped
from yuan_corpus.documents import Reading, SkipLog, expand, read_documents, slice_files
from yuan_corpus.errors import CorpusError
from yuan_corpus.sources import Source, compression_of, decompressed, format_suffix, open_source
from yuan_corpus.text_files import find_text_files

_BASE = np.uint64(0x9E3779B97F4A7C15)


class Decontamination:
    """Leaves out documents that share an n-gram with a benchmark file (GPT-3's rule, arXiv 2005.14165 appendix C).

    An item of an n-gram is a Han character or another word, without case and punctuation. Of `.jsonl` and `.json`
    files every text is taken, however deep; of others their lines. Texts shorter than an n-gram cannot be found.
    Every worker holds the benchmarks' n-grams, some 200 bytes each.
    """

    def __init__(self, files: Sequence[str], ngram: int = 13) -> None:
        self._size = ngram
        grams: set[tuple[str, ...]] = set()
        for path in find_text_files(files):
            for text in _texts(path):
                grams.update(ngrams(units(text), ngram))
        if not grams:
            raise CorpusError(f"files: no text in them has {ngram} words or characters")
        self._grams = frozenset(grams)
        self._numbers = {word: number for number, word in enumerate(sorted({w for gram in grams for w in gram}), 1)}
        rows = np.array([[self._numbers[word] for word in gram] for gram in grams], np.uint64)
        self._hashes = np.unique(_hashes(rows.T))

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or that it is left out."""
        found = units(text)
        if len(found) < self._size:
            return text
        numbers = np.array([self._numbers.get(word, 0) for word in found], np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(numbers, self._size)
        # A hash tells where to look; what is equal is then compared as it is.
        hits = np.flatnonzero(np.isin(_hashes(windows.T), self._hashes))
        for start in hits.tolist():
            if tuple(found[start : start + self._size]) in self._grams:
                return Dropped("benchmark text")
        return text


def _hashes(columns: Any) -> Any:
    """Returns a hash of each n-gram: of uint64 [n, count], first items first."""
    total = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        total = (total ^ column) * _BASE
    return total


def _texts(path: Source) -> Iterator[str]:
    suffix = format_suffix(path.name)
    if suffix in (".jsonl", ".json"):
        with open_source(path) as file:
            compression = compression_of(path.name)
            data = b"".join(decompressed(file, compression)) if compression else file.read()
        try:
            for line in data.decode("utf-8").split("\n") if suffix == ".jsonl" else (data.decode("utf-8"),):
                if line.strip():
                    yield from _strings(json.loads(line))
        except ValueError as error:
            raise CorpusError(f"files: {path}: not JSON in UTF-8 ({error})") from None
        return
    from yuan_corpus.documents import DocumentMode  # noqa: PLC0415

    how = Reading(DocumentMode.LINES)
    for part in expand(slice_files([path], how), how):
        yield from read_documents(part, how, SkipLog())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, child in value.items():  # pyright: ignore[reportUnknownVariableType]
            yield from _strings(child)
            if isinstance(key, str) and len(key) > 40:  # TruthfulQA's answers are keys
                yield key
    elif isinstance(value, list):
        for child in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _strings(child)
