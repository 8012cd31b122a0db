"""Documents left out because they hold parts of a benchmark."""

import ast
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus.cleaning.characters import Hashes, among, code_points, kinds_of, run_hashes, unit_words
from yuan_corpus.cleaning.stage import Dropped
from yuan_corpus.documents import Reading, SkipLog, expand, read_documents, slice_files
from yuan_corpus.errors import CorpusError, TextError
from yuan_corpus.sources import Source, compression_of, decompressed, format_suffix, open_source
from yuan_corpus.text_files import find_text_files

_TABLE_BITS = 24
"""Of the table of hashes that is looked at first: 16 MB, filled to a hundredth by 170,000 n-grams."""


class Decontamination:
    """Leaves out documents that share an n-gram with a benchmark file (GPT-3's rule, arXiv 2005.14165 appendix C).

    An item of an n-gram is a Han character or another word, without case and punctuation. Of `.jsonl`, `.json` and
    `.parquet` files every text is taken, however deep; of others their lines. Texts shorter than an n-gram cannot be
    found.
    Every worker holds 8 bytes an n-gram of the benchmarks, and 16 MB.
    """

    def __init__(self, files: Sequence[str], ngram: int = 13) -> None:
        self._size = ngram
        # As they are made of documents, so that both agree. Two different n-grams agree with probability 2^-64.
        found = [grams_of(text, ngram) for path in find_text_files(files) for text in _texts(path)]
        self._hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))
        if not len(self._hashes):
            raise CorpusError(f"files: no text in them has {ngram} words or characters")
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[_slots(self._hashes)] = True

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or that it is left out."""
        hashes = grams_of(text, self._size)
        likely = hashes[self._table[_slots(hashes)]]
        return Dropped("benchmark text") if among(likely, self._hashes).any() else text


def grams_of(text: str, size: int) -> Hashes:
    """Returns hashes of a text's n-grams of words (Han characters and others), in order."""
    points = code_points(text.lower())
    return run_hashes(unit_words(points, kinds_of(points)).hashes, size)


def _slots(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)


def _texts(path: Source) -> Iterator[str]:
    suffix = format_suffix(path.name)
    if suffix in (".jsonl", ".json"):
        with open_source(path) as file:
            compression = compression_of(path.name)
            data = b"".join(decompressed(file, compression)) if compression else file.read()
        for value in _values(path, data):
            yield from _strings(value)
        return
    if suffix == ".parquet":
        from yuan_corpus.parquet import read_records  # noqa: PLC0415 - services that read no text do without pyarrow

        for record in read_records(path):
            yield from _strings(record)
        return
    from yuan_corpus.documents import DocumentMode  # noqa: PLC0415

    how = Reading(DocumentMode.LINES)
    try:
        for part in expand(slice_files([path], how), how):
            yield from read_documents(part, how, SkipLog())
    except TextError as error:  # what it says to do is for text
        raise CorpusError(f"files: {str(error).partition('; ')[0]}; mend it, or name another") from None


def _values(path: Source, data: bytes) -> Iterator[Any]:
    """Yields what stands in a file: one value of JSON, or one a line, which may be Python's (as in TruthfulQA_CN)."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"files: {path}: not UTF-8 at byte {error.start}") from None
    try:
        yield json.loads(text)
        return
    except (ValueError, RecursionError):
        pass  # lines, then
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                try:
                    value = ast.literal_eval(line.strip())
                except (ValueError, SyntaxError, RecursionError, MemoryError):
                    raise CorpusError(f"files: {path}: line {number} is neither JSON nor a value of Python") from None
            yield value


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
