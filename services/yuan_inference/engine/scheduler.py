"""Who is computed in the next step and where its cache lies. Decides only: no tensors, no threads.

Sequences run in the order in which the queue gives them. Where blocks run out, the one that matters least (lowest
priority, then youngest) gives its own back and is computed again later (preemption by recomputation), so that the first
always gets on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from yuan_inference.engine.blocks import BlockPool
from yuan_inference.engine.queue import FairQueue
from yuan_inference.engine.sequence import Sequence
from yuan_model import blocks_needed


class Turn(NamedTuple):
    """What is computed of one sequence in a step.

    Attributes:
        sequence: whose.
        start: tokens that were held before.
        stop: its tokens before this one are held after the step, guesses included.
        outputs: of how many of the last of them logits are wanted.
        guesses: tokens behind the sequence's own that may turn out right.
    """

    sequence: Sequence
    start: int
    stop: int
    outputs: int
    guesses: tuple[int, ...] = ()


@dataclass(frozen=True)
class Limits:
    """How much a step may do.

    Attributes:
        rows: sequences that run at once.
        prompt_tokens: of prompts that a step computes, so that those who are beyond theirs need not wait.
        scored: tokens of prompts of which a step gives log-probabilities.
        guesses: tokens that are guessed for a sequence.
    """

    rows: int
    prompt_tokens: int
    scored: int
    guesses: int = 0


class Scheduler:
    """Waiting and running sequences and the blocks that they hold.

    Attributes:
        waiting: in the order in which they will run.
        running: in the order in which they began.
        blocks: of the cache.
        preemptions: how often a sequence had to give its blocks back.
        allowed: sequences that may run at once now; less than the limit after memory was short.
    """

    def __init__(self, blocks: BlockPool, limits: Limits) -> None:
        """Begins with everything free."""
        self.blocks = blocks
        self.limits = limits
        self.allowed = limits.rows
        self._free_rows = list(range(limits.rows - 1, -1, -1))
        self.waiting = FairQueue()
        self.running: list[Sequence] = []
        self.preemptions = 0

    @property
    def used_blocks(self) -> int:
        """Blocks that sequences hold."""
        return self.blocks.used

    @property
    def usage(self) -> float:
        """The part of all blocks that sequences hold, 0 to 1."""
        return self.blocks.used / self.blocks.total

    def everything(self) -> Iterator[Sequence]:
        """Goes through all sequences, running and waiting."""
        yield from self.running
        yield from self.waiting

    def plan(self) -> list[Turn]:
        """Admits who can run, and returns the next step; empty if there is nothing to do.

        Blocks for all tokens of a turn are held when it is returned; new ones are at the end of `sequence.blocks`.
        """
        self._admit()
        turns = self._turns()
        preemptions = self.preemptions
        for turn in turns:
            sequence = turn.sequence
            # Who has just given its place to an older one has no row.
            if turn.stop > len(sequence.blocks) * self.blocks.tokens and sequence.row >= 0:
                self._hold(sequence, turn.stop)
        if self.preemptions == preemptions:
            return turns
        return [turn for turn in turns if turn.sequence.row >= 0]

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence and frees all it holds; one that is not known is no error."""
        self._give_back(sequence)
        if not self.waiting.remove(sequence) and sequence in self.running:
            self.running.remove(sequence)

    def shrink(self) -> None:
        """Lets half as many run as do now, since memory is short; one at least."""
        self.allowed = max(1, len(self.running) // 2)
        while len(self.running) > self.allowed:
            self._preempt(self._least())

    def recover(self) -> None:
        """Lets one more run than before, after a step that went well."""
        self.allowed = min(self.limits.rows, self.allowed + 1)

    # --- who runs -----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        while (sequence := self.waiting.next) is not None:
            if not self._has_place(sequence):
                return
            self.waiting.pop()  # whoever gave way for it is younger, and hence behind it
            found = self.blocks.find(sequence.tokens, self._findable(sequence), sequence.adapter)
            self.blocks.share(found)
            sequence.blocks = found
            sequence.held = sequence.registered = len(found) * self.blocks.tokens
            sequence.row = self._free_rows.pop()
            sequence.placed = 0
            needed = blocks_needed(len(sequence.tokens), self.blocks.tokens) - len(found)
            sequence.blocks = [*found, *(self.blocks.take() for _ in range(needed))]
            if not sequence.task.started:
                self.blocks.queries += len(sequence.tokens)
                self.blocks.hits += sequence.held
                sequence.task.cached_tokens = sequence.held
            self.running.append(sequence)

    def _findable(self, sequence: Sequence) -> int:
        """Returns how many tokens may come from known blocks: one is computed always, and all whose logits count."""
        if sequence.scores_prompt:
            return 0
        return len(sequence.tokens) - 1

    def _has_place(self, sequence: Sequence) -> bool:
        while True:
            # One more block for each that runs, or the newcomer would soon be put off again.
            needed = blocks_needed(len(sequence.tokens), self.blocks.tokens)
            needed += len(self.running) * (sequence.task.number > self._oldest)
            row = bool(self._free_rows) and len(self.running) < self.allowed
            if row and (self.blocks.available >= needed or self._fits_with_shared(sequence, needed)):
                return True
            # Branches of one search wait for each other: younger requests make room for the missing one.
            least = self._least() if self.running else None
            if least is None or not sequence.task.in_step or _rank(least) <= _rank(sequence):
                return not self.running and bool(self._free_rows)
            self._preempt(least)

    @property
    def _oldest(self) -> int:
        return min((sequence.task.number for sequence in self.running), default=1 << 62)

    def _fits_with_shared(self, sequence: Sequence, needed: int) -> bool:
        found = self.blocks.find(sequence.tokens, self._findable(sequence), sequence.adapter)
        # Kept blocks that nobody holds are counted as available, and are not after they are shared.
        return self.blocks.available - self.blocks.idle(found) >= needed - len(found)

    def _turns(self) -> list[Turn]:
        """Divides a step: one token for who decodes, and equal parts of the rest for prompts.

        What a short prompt leaves of its part goes to the others, so that it is never behind a long one.
        """
        left, scored = self.limits.prompt_tokens, self.limits.scored
        shares: dict[int, int] = {}
        prompts = sorted((one for one in self.running if one.pending > 1), key=lambda one: one.pending)
        for number, sequence in enumerate(prompts):
            share = min(sequence.pending, -(-left // (len(prompts) - number)))
            if sequence.scores_prompt:
                share = min(share, scored)
                scored -= share
            shares[id(sequence)] = share
            left -= share
        turns: list[Turn] = []
        for sequence in self.running:
            held, length = sequence.held, len(sequence.tokens)
            pending = length - held
            if pending > 1:
                share = shares[id(sequence)]
                if share <= 0:
                    continue
                outputs = share if sequence.scores_prompt else int(share == pending)
                turns.append(Turn(sequence, held, held + share, outputs))
            elif pending:
                guesses = sequence.guess(self.limits.guesses) if self.limits.guesses else ()
                turns.append(Turn(sequence, held, length + len(guesses), 1 + len(guesses), guesses))
        return turns

    # --- what they hold -----------------------------------------------------------------------------------------

    def _hold(self, sequence: Sequence, tokens: int) -> None:
        """Gets blocks for that many tokens, unless the sequence itself has to give its own back."""
        while len(sequence.blocks) * self.blocks.tokens < tokens:
            if self.blocks.available:
                sequence.blocks.append(self.blocks.take())
                continue
            least = self._least()
            self._preempt(least)
            if least is sequence:
                return

    def _least(self) -> Sequence:
        """Returns who gives way first: lowest priority, then the youngest request, then its last branch."""
        return max(
            enumerate(self.running),
            key=lambda one: (one[1].task.request.priority, one[1].task.number, one[0]),
        )[1]

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_back(sequence)
        self.waiting.put_back(sequence)
        self.preemptions += 1

    def _give_back(self, sequence: Sequence) -> None:
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.held = sequence.registered = 0
        if sequence.row >= 0:
            self._free_rows.append(sequence.row)
            sequence.row = -1


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.task.request.priority, sequence.task.number
