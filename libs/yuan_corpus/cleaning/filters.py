"""Documents left out for their length, their language or their words."""

from collections.abc import Sequence

import numpy as np

from yuan_corpus.cleaning.characters import code_points, prefix_sums, window_hashes
from yuan_corpus.cleaning.scripts import is_han
from yuan_corpus.cleaning.stage import Dropped
from yuan_corpus.errors import CorpusError
from yuan_corpus.languages import CODE, classify, identifier, or_code
from yuan_corpus.sources import open_source
from yuan_corpus.text_files import find_text_files


class LengthFilter:
    """Leaves out what is too short or too long, in characters."""

    def __init__(self, min_characters: int = 1, max_characters: int | None = None) -> None:
        self._least, self._most = min_characters, max_characters

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        if len(text) < self._least:
            return Dropped("too short")
        return Dropped("too long") if self._most is not None and len(text) > self._most else text


class LanguageFilter:
    """Keeps documents of some languages, by py3langid (its model is in the package).

    Written Cantonese and Wu, which it tells apart from Chinese by little, count as Chinese. What is in no language to
    keep may be `code`, which can be kept, too; code that is in one (most is taken for English) stays as that.
    """

    def __init__(self, keep: Sequence[str], min_confidence: float = 0.0, sample_characters: int = 2000) -> None:
        known = identifier().labels
        unknown = [name for name in keep if name not in known and name != CODE]
        if unknown:
            expected = f"expected ISO 639 codes like zh, en, or {CODE}"
            raise CorpusError(f"keep: py3langid knows no language {unknown[0]!r}; {expected}")
        self._keep, self._least, self._sample = frozenset(keep), min_confidence, sample_characters

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        language, confidence = classify(text[: self._sample])
        if language not in self._keep and (found := or_code(language, text)) != language:
            language, confidence = found, 1.0
        if language not in self._keep:
            return Dropped(f"language {language}")
        return Dropped(f"language {language}, unsure") if confidence < self._least else text


class WordFilter:
    """Leaves out documents in which listed words occur too often: whole words, in Chinese any run of characters.

    Letter case makes no difference. Where a word begins or ends with a letter or digit of ASCII, none but a Han
    character may stand beside it. A hundred thousand words cost no more time than ten.
    """

    def __init__(self, words: Sequence[str] = (), files: Sequence[str] = (), max_hits: int = 0) -> None:
        listed = list(words)
        for path in find_text_files(files) if files else ():
            with open_source(path) as file:
                data = file.read()
            try:
                listed.extend(data.decode("utf-8-sig").splitlines())
            except UnicodeDecodeError as error:
                raise CorpusError(f"files: {path}: not UTF-8 at byte {error.start}") from None
        self._words = frozenset(word.strip().lower() for word in listed if word.strip())
        if not self._words:
            raise CorpusError("words: no word is listed, neither here nor in files")
        self._lengths = sorted({len(word) for word in self._words}, reverse=True)
        self._most = max_hits
        self._shift = np.uint64(64 - max(16, (64 * len(self._words)).bit_length()))
        self._table = np.zeros(1 << (64 - int(self._shift)), bool)
        for word in self._words:
            self._table[window_hashes(*prefix_sums(code_points(word)), len(word)) >> self._shift] = True

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        small = text.lower()
        points = code_points(small)
        sums, inverses = prefix_sums(points)
        found: list[tuple[int, int]] = []
        for length in self._lengths:
            likely = np.flatnonzero(self._table[window_hashes(sums, inverses, length) >> self._shift])
            found += [(place, length) for place in likely.tolist() if self._is_listed(small, place, place + length)]
        if len(found) <= self._most:
            return text
        hits = free = 0
        for place, length in sorted(found, key=lambda one: (one[0], -one[1])):
            if place >= free:
                hits, free = hits + 1, place + length
        return Dropped("listed words") if hits > self._most else text

    def _is_listed(self, text: str, start: int, end: int) -> bool:
        word = text[start:end]
        if word not in self._words:
            return False
        before, after = text[start - 1 : start], text[end : end + 1]
        return not (_joins(word[0]) and _joins(before, spaced=False)) and not (
            _joins(word[-1]) and _joins(after, spaced=False)
        )


def _joins(character: str, *, spaced: bool = True) -> bool:
    """Tells whether a character is of a word of spaced writing; `spaced`: of ASCII, else of any but Chinese."""
    if spaced:
        return character.isascii() and character.isalnum()
    return bool(character) and character.isalnum() and not is_han(character)
