"""A table of short pieces of text and the few ids that each is, looked up for many at once by numpy.

A row is a key (the UTF-16 units, four to a word, zeros behind them) and up to four ids, each plus one, zeros behind
them. A key has two places; it lies in one of them or in none, and is never moved. What is found is exact: whole keys
are compared. Keys of zeros are empty places, so no key begins with the unit 0.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]

UNITS_PER_WORD = 4
MOST_IDS = 4
_MOST_TAKEN = 0.7
_FACTORS = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)  # odd numbers without a pattern, a word of the key each
_MASKS = np.array(
    [
        [(1 << 16 * min(max(units - UNITS_PER_WORD * word, 0), UNITS_PER_WORD)) - 1 for units in range(17)]
        for word in range(len(_FACTORS))
    ],
    np.uint64,
)  # what of a word belongs to a key of so many units


class SegmentTable:
    """See the module.

    Attributes:
        units: the most that a key has.
    """

    def __init__(self, words: int, place_bits: int) -> None:
        """Makes an empty table.

        Args:
            words: of a key, up to 4.
            place_bits: it has 2 to the power of this many rows.
        """
        self.units = words * UNITS_PER_WORD
        self._words = words
        self._bits = place_bits
        self._rows = np.zeros((1 << place_bits, words + MOST_IDS // 2), np.uint64)
        self._taken = 0

    @property
    def full(self) -> bool:
        """Whether so many places are taken that of two more keys one finds none."""
        return self._taken > _MOST_TAKEN * len(self._rows)

    def keys(self, text: Words, starts: Places, lengths: Places) -> list[Words]:
        """Returns the keys of segments, a word each; of those longer than `units` what means nothing.

        Args:
            text: the four units from each unit on; it goes on for 16 units behind the last segment's beginning.
            starts: where segments begin.
            lengths: how many units each has.
        """
        units = np.minimum(lengths, self.units)
        return [text.take(starts + UNITS_PER_WORD * word) & _MASKS[word].take(units) for word in range(self._words)]

    def find(self, keys: Sequence[Words]) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Returns the ids plus one, [keys, 4], and which keys are there; the ids of others mean nothing."""
        first, second = self._places(keys)
        rows = self._rows.take(first, axis=0)
        hit = self._same(rows, keys)
        other = np.flatnonzero(~hit)
        rows_there = self._rows.take(second.take(other), axis=0)
        hit_there = self._same(rows_there, [word.take(other) for word in keys])
        rows[other.compress(hit_there)] = rows_there.compress(hit_there, axis=0)
        hit[other] = hit_there
        return np.ascontiguousarray(rows[:, self._words :]).view(np.uint32), hit

    def add(self, keys: Sequence[Words], ids: Rows) -> npt.NDArray[np.bool_]:
        """Adds keys with their ids plus one, each at the first free one of its places; returns which are there now."""
        rows = np.column_stack([*keys, ids.view(np.uint64)])
        there = np.zeros(len(rows), bool)
        for places in self._places(keys):
            left = np.flatnonzero(~there)
            wanted = places.take(left)
            free = self._rows[wanted, 0] == 0
            # Of two that want one place the last gets it; the other tries its second.
            self._rows[wanted[free]] = rows[left[free]]
            self._taken += len(np.unique(wanted[free]))
            there[left] = self._same(self._rows.take(wanted, axis=0), [word.take(left) for word in keys])
        return there

    def _same(self, rows: Words, keys: Sequence[Words]) -> npt.NDArray[np.bool_]:
        same = rows[:, 0] == keys[0]
        for word in range(1, self._words):
            same &= rows[:, word] == keys[word]
        return same

    def _places(self, keys: Sequence[Words]) -> tuple[Places, Places]:
        mixed = keys[0] * _FACTORS[0]
        for word in range(1, self._words):
            mixed ^= keys[word] * _FACTORS[word]
        mixed ^= mixed >> np.uint64(32)
        mixed *= _FACTORS[-1]
        first = mixed >> np.uint64(64 - self._bits)
        second = mixed >> np.uint64(64 - 2 * self._bits) & np.uint64((1 << self._bits) - 1)
        return first.view(np.int64), second.view(np.int64)
