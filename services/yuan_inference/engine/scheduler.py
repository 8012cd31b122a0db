"""Who is computed in the next step and where its cache lies. Decides only: no tensors, no threads.

Sequences run in the order in which they came. Where blocks run out, the youngest gives its own back and is computed
again later (preemption by recomputation), so that the oldest always gets on.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from yuan_inference.engine.sequence import Sequence
from yuan_model import blocks_needed


@dataclass(frozen=True)
class Turn:
    """What is computed of one sequence in a step.

    Attributes:
        sequence: whose.
        stop: its tokens before this one are held after the step.
    """

    sequence: Sequence
    stop: int

    @property
    def draws(self) -> bool:
        """Whether a token is drawn behind it: all that the sequence has is computed then."""
        return self.stop == len(self.sequence.tokens)


class Scheduler:
    """Waiting and running sequences and the blocks that they hold.

    Attributes:
        waiting: in the order in which they will run.
        running: in the order in which they began.
        preemptions: how often a sequence had to give its blocks back.
    """

    def __init__(self, blocks: int, block_tokens: int, rows: int, step_tokens: int) -> None:
        """Begins with everything free.

        Args:
            blocks: of the cache.
            block_tokens: tokens a block holds.
            rows: sequences that run at once.
            step_tokens: of prompts that a step computes at most, so that those who are beyond theirs need not wait.
        """
        self._blocks = blocks
        self._block_tokens = block_tokens
        self._step_tokens = step_tokens
        self._free_blocks = list(range(blocks - 1, -1, -1))
        self._free_rows = list(range(rows - 1, -1, -1))
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    @property
    def used_blocks(self) -> int:
        """Blocks that sequences hold."""
        return self._blocks - len(self._free_blocks)

    @property
    def usage(self) -> float:
        """The part of all blocks that sequences hold, 0 to 1."""
        return self.used_blocks / self._blocks

    def everything(self) -> Iterator[Sequence]:
        """Goes through all sequences, running and waiting."""
        yield from self.running
        yield from self.waiting

    def plan(self) -> list[Turn]:
        """Admits who can run, and returns the next step; empty if there is nothing to do.

        Blocks for all tokens of a turn are held when it is returned; new ones are at the end of `sequence.blocks`.
        """
        self._admit()
        shares = self._shares()
        turns: list[Turn] = []
        for sequence in list(self.running):
            if sequence.row < 0:  # has just given its place to an older one
                continue
            stop = sequence.held + shares[sequence]
            if stop > sequence.held and self._hold(sequence, stop):
                turns.append(Turn(sequence, stop))
        return turns

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence and frees all it holds; one that is not known is no error."""
        self._give_back(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _admit(self) -> None:
        while self.waiting and self._free_rows:
            sequence = self.waiting[0]
            needed = blocks_needed(len(sequence.tokens), self._block_tokens)
            # One more for each that runs, or the newcomer would soon be put off again.
            if self.running and len(self._free_blocks) < needed + len(self.running):
                return
            self.waiting.popleft()
            sequence.row = self._free_rows.pop()
            sequence.blocks = [self._free_blocks.pop() for _ in range(needed)]
            self.running.append(sequence)

    def _shares(self) -> dict[Sequence, int]:
        """Divides a step: one token for who decodes, and equal parts of the rest for prompts.

        What a short prompt leaves of its part goes to the others, so that it is never behind a long one.
        """
        shares: dict[Sequence, int] = {}
        left = self._step_tokens
        prompts = sorted((sequence for sequence in self.running if sequence.pending > 1), key=lambda one: one.pending)
        for number, sequence in enumerate(prompts):
            shares[sequence] = min(sequence.pending, -(-left // (len(prompts) - number)))
            left -= shares[sequence]
        return {sequence: shares.get(sequence, 1) for sequence in self.running}

    def _hold(self, sequence: Sequence, tokens: int) -> bool:
        """Gets blocks for that many tokens; False if the sequence itself had to give its own back."""
        while len(sequence.blocks) * self._block_tokens < tokens:
            if self._free_blocks:
                sequence.blocks.append(self._free_blocks.pop())
                continue
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _give_back(self, sequence: Sequence) -> None:
        self._free_blocks.extend(reversed(sequence.blocks))
        sequence.blocks = []
        sequence.held = 0
        if sequence.row >= 0:
            self._free_rows.append(sequence.row)
            sequence.row = -1
