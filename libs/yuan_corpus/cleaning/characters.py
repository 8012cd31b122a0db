"""A text as arrays: what its characters are, where its words begin, hashes of words and of runs of them.

For rules that count (repetition, duplicates, benchmarks): a pass of numpy over code points is some ten times as fast
as lists of strings.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

HAN, LETTER, WORD, SPACE = 1, 2, 4, 8
"""Bits of a character's kind: Han; a letter of any script; a letter or digit; whitespace."""

_KNOWN = 0x32400
"""Code points from here on are no letters: tags, variation selectors, private use."""
HAN_RANGES = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x2EBEF))
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX = np.uint64(0xBF58476D1CE4E5B9)

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


@lru_cache(maxsize=1)
def _kinds() -> npt.NDArray[np.uint8]:
    """Returns the kind of every code point, uint8 [_KNOWN + 1]; the last is of those above."""
    kinds = np.zeros(_KNOWN + 1, np.uint8)
    for code in range(_KNOWN):
        character = chr(code)
        if character.isalnum():
            kinds[code] = WORD | LETTER if character.isalpha() else WORD
        elif character.isspace():
            kinds[code] = SPACE
    for first, last in HAN_RANGES:
        kinds[first : last + 1] |= HAN
    return kinds


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """Returns a text's code points; halves of surrogate pairs are as they are."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(points: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """Returns the kinds of code points."""
    return _kinds()[np.minimum(points, _KNOWN)]


@dataclass(frozen=True)
class Words:
    """The words of a text.

    Attributes:
        starts: int64 [n], their first characters.
        ends: int64 [n], the characters behind them.
        hashes: uint64 [n], equal for equal words.
        letters: bool [n], which hold a letter.
    """

    starts: Positions
    ends: Positions
    hashes: Hashes
    letters: npt.NDArray[np.bool_]

    @property
    def lengths(self) -> Positions:
        """Characters of each."""
        return self.ends - self.starts

    def __len__(self) -> int:
        """Returns their number."""
        return len(self.starts)


def spaced_words(points: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8], chinese: bool) -> Words:
    """Returns what `scripts.words` does: what spaces part, in Chinese every character that is no space."""
    return _words(points, kinds, (kinds & SPACE) == 0, np.full(len(kinds), chinese))


def unit_words(points: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8]) -> Words:
    """Returns Han characters and runs of other letters and digits, without punctuation."""
    return _words(points, kinds, (kinds & (WORD | HAN)) != 0, (kinds & HAN) != 0)


def _words(
    points: npt.NDArray[np.uint32],
    kinds: npt.NDArray[np.uint8],
    inside: npt.NDArray[np.bool_],
    alone: npt.NDArray[np.bool_],
) -> Words:
    """Returns runs of characters inside words, those that stand alone one by one."""
    before = np.empty_like(inside)
    before[:1] = False
    before[1:] = inside[:-1] & ~alone[:-1]
    starts = np.flatnonzero(inside & (alone | ~before))
    after = np.empty_like(inside)
    after[-1:] = False
    after[:-1] = inside[1:] & ~alone[1:]
    ends = np.flatnonzero(inside & (alone | ~after)) + 1
    if len(starts) == len(points):  # Chinese without spaces: each character is its own hash
        hashes = _mixed(points)
        letters = (kinds & LETTER) != 0
    else:
        hashes = _run_hashes(points, starts, ends)
        counts = np.concatenate([[0], np.cumsum((kinds & LETTER) != 0)])
        letters = counts[ends] > counts[starts]
    return Words(starts, ends, hashes, letters)


def _mixed(points: npt.NDArray[np.uint32]) -> Hashes:
    values = (points.astype(np.uint64) + np.uint64(1)) * _MIX
    return values ^ (values >> np.uint64(29))


def _run_hashes(points: npt.NDArray[np.uint32], starts: Positions, ends: Positions) -> Hashes:
    """Returns a hash of each run: a polynomial in an odd base modulo 2^64, from differences of prefix sums."""
    sums, inverses = prefix_sums(points)
    return (sums[ends] - sums[starts]) * inverses[starts]


def prefix_sums(points: npt.NDArray[np.uint32]) -> tuple[Hashes, Hashes]:
    """Returns what hashes of parts of a text are made from: uint64 [n + 1], and at least as many."""
    size = 1 << max(10, len(points).bit_length())
    powers, inverses = _kept_powers(size) if size <= _LARGEST_KEPT else _powers(size)
    sums = np.zeros(len(points) + 1, np.uint64)
    np.cumsum(_mixed(points) * powers[: len(points)], out=sums[1:])
    return sums, inverses


def window_hashes(sums: Hashes, inverses: Hashes, length: int) -> Hashes:
    """Returns a hash of every run of so many characters, the same wherever it stands: uint64 [n - length + 1].

    Args:
        sums: of `prefix_sums`.
        inverses: of `prefix_sums`.
        length: of a run.
    """
    count = max(0, len(sums) - length)
    return (sums[length:] - sums[:count]) * inverses[:count]


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """Returns the first powers of the base and of its inverse."""
    tables: list[Any] = []
    for base in (_BASE, _INVERSE):
        factors = np.full(count, base, np.uint64)
        factors[0] = 1
        tables.append(np.multiply.accumulate(factors))
    return tables[0], tables[1]


_kept_powers = lru_cache(maxsize=None)(_powers)  # of sizes that are powers of 2: twice the largest in all
_LARGEST_KEPT = 1 << 20


def lengthened(grams: Hashes, words: Hashes, size: int) -> Hashes:
    """Returns hashes of runs of `size` words, of those of runs of one less: uint64 [len(words) - size + 1]."""
    count = max(0, len(words) - size + 1)
    return (grams[:count] ^ (grams[:count] >> np.uint64(31))) * _MIX + words[size - 1 :][:count] * np.uint64(_BASE)


def run_hashes(words: Hashes, size: int) -> Hashes:
    """Returns hashes of all runs of `size` words, in order."""
    grams = words
    for length in range(2, size + 1):
        grams = lengthened(grams, words, length)
    return grams


def among(values: Hashes, ordered: Hashes) -> npt.NDArray[np.bool_]:
    """Tells which values are among ordered ones."""
    if len(ordered) < 8:
        return np.logical_or.reduce([values == value for value in ordered])
    places = np.searchsorted(ordered, values)
    return ordered[np.minimum(places, len(ordered) - 1)] == values
