"""Sentences that stood before, removed: of C4's rules the one that needs the documents before (arXiv 1910.10683, 2.2).

All but the first of any run of three sentences that occurs more than once go, whichever documents they are in.
"""

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from yuan_corpus.cleaning.characters import Hashes, Positions, code_points, prefix_sums, run_hashes
from yuan_corpus.cleaning.scripts import SENTENCE_ENDS, is_chinese
from yuan_corpus.cleaning.stage import Dropped

_CUTS = {
    chinese: re.compile(rf"(?:{ends.pattern})[^\S\n]*\n*|\n+") for chinese, ends in SENTENCE_ENDS.items()
}  # fmt: skip
_IS_SPACE = np.zeros(0x3002, bool)  # by code point; the last one stands for all that follow
_IS_SPACE[[point for point in range(0x3001) if chr(point).isspace()]] = True
_SMALLEST_TABLE = 1 << 16


class Sentences(NamedTuple):
    """The sentences of a document. starts, ends: their characters, which part all of it. spans: a hash a run."""

    starts: Positions
    ends: Positions
    spans: Hashes


class RepeatedSpans:
    """Removes runs of sentences that stood before, in this document or another: all but the first.

    Case and whitespace make no difference. What stands before is what has been kept: of a run that lost a sentence to
    another, the next one is the first. The collecting process holds 16 to 32 bytes a run, so about as many a sentence:
    10 million documents of 30 sentences are 5 to 10 GB.
    """

    def __init__(self, sentences: int = 3) -> None:
        self._size = sentences
        self._seen = SeenHashes()

    def sign(self, text: str) -> Sentences:
        """Returns where the sentences are, and a hash of each run of them."""
        starts, ends = _sentences(text)
        if len(starts) < self._size:
            return Sentences(starts, ends, np.zeros(0, np.uint64))
        small = text.lower()
        points = code_points(small if len(small) == len(text) else text)
        solid = ~_IS_SPACE[np.minimum(points, len(_IS_SPACE) - 1)]
        before = np.concatenate([[0], np.cumsum(solid)])  # characters without spaces
        sums, inverses = prefix_sums(points[solid])
        first = before[starts]
        return Sentences(starts, ends, run_hashes((sums[before[ends]] - sums[first]) * inverses[first], self._size))

    def edit(self, text: str, signature: Sentences, number: int) -> str | Dropped:
        """Returns the next document in order without what stood before."""
        del number
        starts, ends, spans = signature
        if not len(spans):
            return text
        repeated = np.ones(len(spans), bool)
        repeated[np.unique(spans, return_index=True)[1]] = False
        repeated |= self._seen.have(spans)
        gone = _covered(repeated, len(starts), self._size)
        whole = ~np.logical_or.reduce([gone[at : at + len(spans)] for at in range(self._size)])
        self._seen.add(np.unique(spans[whole]))
        if not gone.any():
            return text
        pieces: list[str] = []
        for start, end, removed in zip(starts.tolist(), ends.tolist(), gone.tolist(), strict=True):
            if not removed:
                pieces.append(text[start:end])
            elif text[end - 1] == "\n" and pieces and not pieces[-1].endswith("\n"):
                pieces[-1] = pieces[-1].rstrip() + "\n"  # the end of a line of which something stays
        rest = "".join(pieces)
        return rest.rstrip() if rest.strip() else Dropped("all of it stood before")


def _sentences(text: str) -> tuple[Positions, Positions]:
    """Returns where sentences begin and end: with the marks and the white space behind them."""
    cuts = [match.end() for match in _CUTS[is_chinese(text)].finditer(text)]
    if not cuts or cuts[-1] < len(text):
        cuts.append(len(text))
    starts: list[int] = []
    ends: list[int] = []
    done = 0
    for cut in cuts:
        if text[done:cut].strip():
            starts.append(done)
            ends.append(cut)
        elif ends:
            ends[-1] = cut
        else:
            continue  # what a text begins with goes to its first sentence
        done = cut
    if starts:
        starts[0] = 0
    return np.array(starts, np.int64), np.array(ends, np.int64)


def _covered(runs: npt.NDArray[np.bool_], count: int, size: int) -> npt.NDArray[np.bool_]:
    """Returns which of so many items are in one of some runs of `size`; runs: whether the one that begins there is."""
    covered = np.zeros(count, bool)
    for at in range(size):
        covered[at : at + len(runs)] |= runs
    return covered


class SeenHashes:
    """A set of hashes in an array, half full at most."""

    def __init__(self) -> None:
        self._table = np.zeros(_SMALLEST_TABLE, np.uint64)
        self._count = 0

    def have(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Tells which hashes are in it."""
        found = np.zeros(len(hashes), bool)
        wanted, slots = _nonzero(hashes), self._slots(hashes)
        left = np.arange(len(hashes))
        while len(left):
            there = self._table[slots[left]]
            found[left[there == wanted[left]]] = True
            left = left[(there != wanted[left]) & (there != 0)]
            slots[left] = (slots[left] + 1) % len(self._table)
        return found

    def add(self, hashes: Hashes) -> None:
        """Puts different hashes in, none of which is in it."""
        if 2 * (self._count + len(hashes)) > len(self._table):
            old = self._table[self._table != 0]
            self._table = np.zeros(len(self._table) * 2, np.uint64)
            self._count = 0
            self.add(old)
            self.add(hashes)
            return
        wanted, slots = _nonzero(hashes), self._slots(hashes)
        left = np.arange(len(hashes))
        while len(left):
            free = left[self._table[slots[left]] == 0]
            self._table[slots[free]] = wanted[free]  # of several for one slot the last
            left = left[self._table[slots[left]] != wanted[left]]
            slots[left] = (slots[left] + 1) % len(self._table)
        self._count += len(hashes)

    def _slots(self, hashes: Hashes) -> Positions:
        mixed = _nonzero(hashes) * np.uint64(0x9E3779B97F4A7C15)
        return (mixed >> np.uint64(20)).astype(np.int64) % len(self._table)


def _nonzero(hashes: Hashes) -> Hashes:
    return np.maximum(hashes, np.uint64(1))
