"""Which block of the cache belongs to whom, and which hold the beginning of a text that may come again.

A block that is full can be known by the tokens in it and before it. Whoever begins with the same tokens (under the same
adapter) begins behind it. It is kept after its last owner has gone, until its place is needed: the least recently used
first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from yuan_model import BLOCK_TOKENS


@dataclass(slots=True)
class _Known:
    """A full block's text. `number` names it and all before it, and is never given to another text."""

    number: int
    key: tuple[int, tuple[int, ...]]


class BlockPool:
    """All blocks of a cache.

    Attributes:
        total: how many there are.
        tokens: that each holds.
        queries: tokens of prompts that were looked up.
        hits: of those, tokens that were found.
    """

    def __init__(self, total: int, *, keep_prefixes: bool, tokens: int = BLOCK_TOKENS) -> None:
        """Begins with everything free.

        Args:
            total: blocks.
            keep_prefixes: full blocks are shared and kept.
            tokens: that a block holds.
        """
        self.total = total
        self.tokens = tokens
        self.queries = self.hits = 0
        self._keeps = keep_prefixes
        self._free = list(range(total - 1, -1, -1))
        self._owners = [0] * total
        self._known: dict[int, _Known] = {}
        self._by_key: dict[tuple[int, tuple[int, ...]], int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._numbers = count(1)

    @property
    def available(self) -> int:
        """Blocks that can be taken, those included that only hold kept prefixes."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return self.total - self.available

    def idle(self, blocks: Iterable[int]) -> int:
        """Returns how many of some blocks nobody holds."""
        return sum(block in self._idle for block in blocks)

    def take(self) -> int:
        """Returns a block for a new owner; the caller has seen that one is available."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        self._owners[block] = 1
        return block

    def share(self, blocks: Iterable[int]) -> None:
        """Makes one more owner of blocks."""
        for block in blocks:
            self._owners[block] += 1
            self._idle.pop(block, None)

    def release(self, blocks: Sequence[int]) -> None:
        """Ends an owner's hold. The last blocks of a text are the first to be given to somebody else."""
        for block in reversed(blocks):
            self._owners[block] -= 1
            if self._owners[block] == 0:
                if block in self._known:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def spoil(self, blocks: Iterable[int]) -> list[int]:
        """Forgets what blocks hold, since it may be wrong; returns those that nobody else shares."""
        mine = [block for block in blocks if self._owners[block] == 1]
        for block in mine:
            self._forget(block)
        return mine

    def find(self, tokens: Sequence[int], longest: int, adapter: int) -> list[int]:
        """Returns the known blocks that a text begins with, of `longest` tokens at most; nobody owns them by that."""
        if not self._keeps:
            return []
        found: list[int] = []
        before = _root(adapter)
        for begin in range(0, longest // self.tokens * self.tokens, self.tokens):
            block = self._by_key.get((before, tuple(tokens[begin : begin + self.tokens])))
            if block is None:
                break
            found.append(block)
            before = self._known[block].number
        return found

    def register(self, tokens: Sequence[int], blocks: Sequence[int], first: int, last: int, adapter: int) -> None:
        """Makes a text's blocks number first..last-1, which are full and right, known."""
        if not self._keeps:
            return
        for place in range(first, last):
            before = _root(adapter)
            if place:
                known = self._known.get(blocks[place - 1])
                if known is None:  # another block was known for the same text: what follows it is not looked for here
                    return
                before = known.number
            key = (before, tuple(tokens[place * self.tokens : (place + 1) * self.tokens]))
            block = blocks[place]
            if key in self._by_key or block in self._known:
                continue
            self._known[block] = _Known(next(self._numbers), key)
            self._by_key[key] = block

    def forget_all(self) -> None:
        """Forgets all kept prefixes."""
        for block in list(self._known):
            self._forget(block)
        self._free.extend(self._idle)
        self._idle.clear()

    def _forget(self, block: int) -> None:
        known = self._known.pop(block, None)
        if known is not None:
            del self._by_key[known.key]


def _root(adapter: int) -> int:
    """Returns the number before a text's first block; what one adapter computed is of no use to another."""
    return -2 - adapter
