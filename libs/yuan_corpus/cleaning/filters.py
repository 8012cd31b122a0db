"""Documents left out for their length, their language or their words."""

import itertools
import re
from collections.abc import Sequence

from yuan_corpus.cleaning.stage import Dropped
from yuan_corpus.errors import CorpusError
from yuan_corpus.languages import classify, identifier
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

    Written Cantonese and Wu, which it tells apart from Chinese by little, count as Chinese.
    """

    def __init__(self, keep: Sequence[str], min_confidence: float = 0.0, sample_characters: int = 2000) -> None:
        known = identifier().labels
        unknown = [name for name in keep if name not in known]
        if unknown:
            raise CorpusError(f"keep: py3langid knows no language {unknown[0]!r}; expected ISO 639 codes like zh, en")
        self._keep, self._least, self._sample = frozenset(keep), min_confidence, sample_characters

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        language, confidence = classify(text[: self._sample])
        if language not in self._keep:
            return Dropped(f"language {language}")
        return Dropped(f"language {language}, unsure") if confidence < self._least else text


class WordFilter:
    """Leaves out documents in which listed words occur too often: whole words, in Chinese any run of characters."""

    def __init__(self, words: Sequence[str] = (), files: Sequence[str] = (), max_hits: int = 0) -> None:
        listed = list(words)
        for path in find_text_files(files) if files else ():
            with open_source(path) as file:
                listed.extend(line.strip() for line in file.read().decode("utf-8").splitlines())
        found = sorted({word.lower() for word in listed if word.strip()}, key=lambda word: (-len(word), word))
        if not found:
            raise CorpusError("words: no word is listed, neither here nor in files")
        # A border is asked for where the word's own end is a letter of spaced writing.
        parts = [
            (r"\b" if word[0].isascii() and word[0].isalnum() else "")
            + re.escape(word)
            + (r"\b" if word[-1].isascii() and word[-1].isalnum() else "")
            for word in found
        ]
        self._pattern = re.compile("|".join(parts))
        self._most = max_hits

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        hits = sum(1 for _ in itertools.islice(self._pattern.finditer(text.lower()), self._most + 1))
        return Dropped("listed words") if hits > self._most else text
