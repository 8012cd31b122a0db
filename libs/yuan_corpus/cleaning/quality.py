"""The rules of Gopher (arXiv 2112.11446, appendix A1.1) and C4 (arXiv 1910.10683, section 2.2).

For documents in Chinese a word is a character, and a sentence ends with 。！？…; thresholds of word length, stop words
and alphabetic words have no meaning there and are passed over.
"""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

from yuan_corpus.cleaning.characters import (
    Hashes,
    Positions,
    Words,
    among,
    code_points,
    kinds_of,
    lengthened,
    spaced_words,
)
from yuan_corpus.cleaning.scripts import is_chinese, kinds_are_chinese, sentences, words
from yuan_corpus.cleaning.stage import Dropped

_STOP_WORD = re.compile(
    r"(?<!\S)[.,;:!?\"'()]*(the|be|to|of|and|that|have|with)[.,;:!?\"'()]*(?!\S)", re.IGNORECASE | re.ASCII
)
_LINE_END, _PARAGRAPH_END = re.compile(r"\n"), re.compile(r"\n{2,}")
_BULLETS = ("•", "-", "*", "●", "·", "‣")
_TOP_NGRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
_REPEATED_NGRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
# By whether the line is Chinese. An ellipsis ends no line of C4, which takes it for text that was cut.
_ENDS = {False: tuple(".!?\"'”’"), True: tuple(".!?。！？．…\"'”’」』")}
_ASIDE = re.compile(r"[（(][^（()）]*[）)]$")  # 。（完） ends as the sentence before it does
_CITATIONS = re.compile(r" ?\[(?:\d*|edit|citation needed|编辑|来源请求)\]")
_PHRASES = (
    "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
    "隐私政策", "使用条款", "服务条款", "用户协议",
)  # fmt: skip


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
        for name, separator in (("lines", _LINE_END), ("paragraphs", _PARAGRAPH_END)):
            parts = [part for part in separator.split(text) if part.strip()]
            repeated = [part for part, count in Counter(parts).items() for _ in range(count - 1)]
            if len(repeated) > self._lines * len(parts):
                return Dropped(f"duplicate {name}")
            if sum(map(len, repeated)) > self._line_characters * len(text):
                return Dropped(f"characters in duplicate {name}")
        return self._ngrams(text)

    def _ngrams(self, text: str) -> str | Dropped:
        found, chinese = _words_of(text)
        lengths = found.lengths
        ends = np.concatenate([[0], np.cumsum(lengths)])
        total = int(ends[-1])
        # A pair of characters is far more common than one of words: in Chinese n-grams are of 2 n characters.
        scale = 2 if chinese else 1
        grams = _grams(found.hashes, [size * scale for size, _ in (*_TOP_NGRAMS, *_REPEATED_NGRAMS)])
        most_often = len(found)
        for (size, most), hashes in zip(_TOP_NGRAMS, grams, strict=False):
            limit = most * self._factor * total
            characters = ends[size * scale :][: len(hashes)] - ends[: len(hashes)]
            # No n-gram is more frequent than the shorter one within it.
            if most_often * int(characters.max(initial=0)) > limit:
                most_often, longest = _most_frequent(hashes, characters)
                if most_often > 1 and most_often * longest > limit:
                    return Dropped(f"one {size}-gram too often")
        least = min(most for _, most in _REPEATED_NGRAMS) * self._factor * total
        for (size, most), hashes in zip(_REPEATED_NGRAMS, grams, strict=False):
            limit = most * self._factor * total
            places, numbers = _repeats(hashes)
            covered = _covered_characters(places, numbers, lengths, size * scale)
            # What longer n-grams cover that stood before, the shorter ones within them cover too.
            if covered <= least:
                break
            if covered > limit and _repeated_characters(places, numbers, ends, size * scale) > limit:
                return Dropped(f"repeated {size}-grams")
        return text


def _words_of(text: str) -> tuple[Words, bool]:
    """Returns a text's words, and whether they are Chinese characters."""
    points = code_points(text)
    kinds = kinds_of(points)
    chinese = not text.isascii() and kinds_are_chinese(kinds)
    return spaced_words(points, kinds, chinese), chinese


def _grams(words: Hashes, sizes: list[int]) -> Iterator[Hashes]:
    """Yields the hashes of n-grams of rising sizes, each made from the one before."""
    grams, size = words, 1
    for wanted in sizes:
        while size < wanted:
            size += 1
            grams = lengthened(grams, words, size)
        yield grams


def _most_frequent(grams: Hashes, characters: Positions) -> tuple[int, int]:
    """Returns how often the most frequent n-gram stands there, and the characters of the longest of such.

    Args:
        grams: uint64 [n], n > 0.
        characters: of each, int64 [n].
    """
    ordered = np.sort(grams)
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(begins, append=len(ordered))
    count = int(counts.max())
    return count, int(characters[among(grams, ordered[begins[counts == count]])].max()) if count > 1 else 0


def _repeats(grams: Hashes) -> tuple[Positions, Positions]:
    """Returns where n-grams stand that occur twice or more, and a number for each of these."""
    ordered = np.sort(grams)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    places = np.flatnonzero(among(grams, twice))
    return places, np.searchsorted(twice, grams[places])


def _covered_characters(places: Positions, numbers: Positions, lengths: Positions, size: int) -> int:
    """Returns the characters of all n-grams that stood before in the text: no less than Gopher counts of them.

    Args:
        places: of n-grams that occur twice or more.
        numbers: which they are.
        lengths: characters of each word.
        size: words of an n-gram.
    """
    if not len(places):
        return 0
    later = np.ones(len(places), bool)
    later[np.unique(numbers, return_index=True)[1]] = False
    steps = np.bincount(places[later], minlength=len(lengths) + 1)
    steps -= np.bincount(places[later] + size, minlength=len(lengths) + 1)
    return int(lengths[np.cumsum(steps[:-1]) > 0].sum())


def _repeated_characters(places: Positions, numbers: Positions, ends: Positions, size: int) -> int:
    """Returns the characters of n-grams that stood before, each character counted once, as Gopher does."""
    seen: set[int] = set()
    free = repeated = 0
    for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
        if place < free:
            continue
        if number in seen:
            repeated += int(ends[place + size] - ends[place])
            free = place + size
        else:
            seen.add(number)
    return repeated


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
        found, chinese = _words_of(text)
        reason = self._shape(text, len(found)) or self._words_of(text, found, chinese)
        return Dropped(reason) if reason else text

    def _shape(self, text: str, count: int) -> str | None:
        if not self._words[0] <= count <= self._words[1]:
            return "too few words" if count < self._words[0] else "too many words"
        if max(text.count("#"), text.count("…") + text.count("...")) > self._symbols * count:
            return "too many symbols"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(_BULLETS) for line in lines) > self._bullets * len(lines):
            return "too many bullet lines"
        ellipses = sum(line.endswith(("…", "...")) for line in lines)
        return "too many lines end with an ellipsis" if ellipses > self._ellipses * len(lines) else None

    def _words_of(self, text: str, found: Words, chinese: bool) -> str | None:
        # In Chinese every character is a word, and punctuation, a sixth of a text, counts as words without letters.
        if np.count_nonzero(found.letters) < (self._alphabetic - (0.15 if chinese else 0)) * len(found):
            return "too few words with letters"
        if chinese:
            return None
        if not self._mean[0] <= int(found.lengths.sum()) / max(1, len(found)) <= self._mean[1]:
            return "words too short or too long"
        return None if self._has_stop_words(text) else "too few stop words"

    def _has_stop_words(self, text: str) -> bool:
        found: set[str] = set()
        if self._stop_words <= 0:
            return True
        for match in _STOP_WORD.finditer(text):
            found.add(match.group(1).lower())
            if len(found) >= self._stop_words:
                return True
        return False


class C4Quality:
    """Leaves out lines that are no sentences, and documents with too few of them, code or placeholders.

    Marks of citations (`[1]`, `[edit]`, `[citation needed]`) are removed. Of the paper's rules, its list of words is
    the stage `words`, English alone the stage `language`, runs of three sentences that stood before `repeated_spans`.
    """

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
        phrases = [phrase for phrase in _PHRASES if phrase in small]
        plain = _CITATIONS.sub("", text) if "[" in text else text
        lines = plain.splitlines()
        kept = [line for line in lines if self._keeps(line, chinese, phrases)]
        result = "\n".join(kept)
        if len(sentences(result, chinese)) < self._sentences:
            return Dropped("too few sentences")
        return result if len(kept) < len(lines) else plain

    def _keeps(self, line: str, chinese: bool, phrases: list[str]) -> bool:
        line = line.strip()
        if self._ends:
            end = _ASIDE.sub("", line).rstrip() if chinese else line
            if not end.endswith(_ENDS[chinese]) or (end.endswith("...") and not chinese):
                return False
        if len(words(line, chinese)) < self._words * (2 if chinese else 1):
            return False
        return not any(phrase in line.lower() for phrase in phrases)
