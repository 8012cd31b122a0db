"""The rules of Gopher (arXiv 2112.11446, appendix A1.1) and C4 (arXiv 1910.10683, section 2.2).

For documents in Chinese a word is a character, and a sentence ends with 。！？…; thresholds of word length, stop words
and alphabetic words have no meaning there and are passed over.
"""

import re
from collections import Counter

from yuan_corpus.cleaning.scripts import is_chinese, ngrams, sentences, words
from yuan_corpus.cleaning.stage import Dropped

_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_BULLETS = ("•", "-", "*", "●", "·", "‣")
_TOP_NGRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
_REPEATED_NGRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
_ENDS = re.compile(r"[.!?。！？…;；:：]?[\"'”’」』）)]*$")


class GopherRepetition:
    """Leaves out documents that repeat lines, paragraphs or n-grams."""

    def __init__(
        self, max_duplicate_lines: float = 0.3, max_duplicate_line_characters: float = 0.2, ngram_factor: float = 1.0
    ) -> None:
        self._lines, self._line_characters, self._factor = (
            max_duplicate_lines,
            max_duplicate_line_characters,
            ngram_factor,
        )

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        for name, separator in (("lines", "\n"), ("paragraphs", "\n\n")):
            parts = [part for part in text.split(separator) if part.strip()]
            repeated = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
            if len(repeated) > self._lines * len(parts):
                return Dropped(f"duplicate {name}")
            if sum(map(len, repeated)) > self._line_characters * len(text):
                return Dropped(f"characters in duplicate {name}")
        return self._ngrams(text)

    def _ngrams(self, text: str) -> str | Dropped:
        chinese = is_chinese(text)
        found = words(text, chinese)
        total = sum(map(len, found))
        # A pair of characters is far more common than one of words: in Chinese n-grams are of 2 n characters.
        scale = 2 if chinese else 1
        for size, most in _TOP_NGRAMS:
            counts = Counter(ngrams(found, size * scale))
            if counts:
                gram, count = max(counts.items(), key=lambda item: (item[1], item[0]))
                if count > 1 and count * sum(map(len, gram)) > most * self._factor * total:
                    return Dropped(f"one {size}-gram too often")
        for size, most in _REPEATED_NGRAMS:
            length = size * scale
            seen: set[tuple[str, ...]] = set()
            start = repeated = 0
            grams = ngrams(found, length)
            while start < len(grams):
                if grams[start] in seen:
                    repeated += sum(map(len, grams[start]))
                    start += length  # characters are counted once, as Gopher does
                else:
                    seen.add(grams[start])
                    start += 1
            if repeated > most * self._factor * total:
                return Dropped(f"repeated {size}-grams")
        return text


class GopherQuality:
    """Leaves out documents that do not look like running text."""

    def __init__(  # noqa: PLR0917 - given by name, from a manifest
        self,
        min_words: int = 50,
        max_words: int = 100_000,
        min_mean_word: float = 3.0,
        max_mean_word: float = 10.0,
        max_symbols: float = 0.1,
        max_bullet_lines: float = 0.9,
        max_ellipsis_lines: float = 0.3,
        min_alphabetic: float = 0.8,
        min_stop_words: int = 2,
    ) -> None:
        self._words = (min_words, max_words)
        self._mean = (min_mean_word, max_mean_word)
        self._symbols, self._bullets, self._ellipses = max_symbols, max_bullet_lines, max_ellipsis_lines
        self._alphabetic, self._stop_words = min_alphabetic, min_stop_words

    def clean(self, text: str) -> str | Dropped:
        """Returns the text or why it is left out."""
        chinese = is_chinese(text)
        found = words(text, chinese)
        reason = self._shape(text, found) or self._words_of(found, chinese)
        return Dropped(reason) if reason else text

    def _shape(self, text: str, found: list[str]) -> str | None:
        if not self._words[0] <= len(found) <= self._words[1]:
            return "too few words" if len(found) < self._words[0] else "too many words"
        if max(text.count("#"), text.count("…") + text.count("...")) > self._symbols * len(found):
            return "too many symbols"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(_BULLETS) for line in lines) > self._bullets * len(lines):
            return "too many bullet lines"
        ellipses = sum(line.endswith(("…", "...")) for line in lines)
        return "too many lines end with an ellipsis" if ellipses > self._ellipses * len(lines) else None

    def _words_of(self, found: list[str], chinese: bool) -> str | None:
        # In Chinese every character is a word, and punctuation, a sixth of a text, counts as words without letters.
        alphabetic = sum(any(map(str.isalpha, word)) for word in found)
        if alphabetic < (self._alphabetic - (0.15 if chinese else 0)) * len(found):
            return "too few words with letters"
        if chinese:
            return None
        if not self._mean[0] <= sum(map(len, found)) / max(1, len(found)) <= self._mean[1]:
            return "words too short or too long"
        small = {word.lower().strip(".,;:!?\"'()") for word in found}
        return "too few stop words" if len(small & _STOP_WORDS) < self._stop_words else None


class C4Quality:
    """Leaves out lines that are no sentences, and documents with too few of them, code or placeholders."""

    def __init__(
        self,
        min_sentences: int = 5,
        min_words_per_line: int = 3,
        line_ends: bool = True,
        curly_brackets: bool = True,
        lorem_ipsum: bool = True,
    ) -> None:
        self._sentences, self._words = min_sentences, min_words_per_line
        self._ends, self._brackets, self._lorem = line_ends, curly_brackets, lorem_ipsum

    def clean(self, text: str) -> str | Dropped:
        """Returns the lines that are kept or why the document is left out."""
        small = text.lower()
        if self._lorem and "lorem ipsum" in small:
            return Dropped("lorem ipsum")
        if self._brackets and "{" in text:
            return Dropped("curly bracket")
        chinese = is_chinese(text)
        kept = [line for line in text.splitlines() if self._keeps(line, chinese)]
        result = "\n".join(kept)
        if len(sentences(result, chinese)) < self._sentences:
            return Dropped("too few sentences")
        return result if len(kept) < len(text.splitlines()) else text

    def _keeps(self, line: str, chinese: bool) -> bool:
        line = line.strip()
        if self._ends:
            end = _ENDS.search(line)
            if end is None or not end.group() or (line.endswith("...") and not chinese):
                return False
        if len(words(line, chinese)) < self._words * (2 if chinese else 1):
            return False
        small = line.lower()
        return "javascript" not in small and not any(
            phrase in small for phrase in ("terms of use", "privacy policy", "cookie policy", "uses cookies")
        )
