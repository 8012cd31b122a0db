"""One step after the other: what is planned is computed, drawn from and told. In the engine's thread alone."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from yuan_events import one_line
from yuan_inference.engine.beam import Branch
from yuan_inference.engine.metrics import ModelMetrics
from yuan_inference.engine.request import Failure, FinishReason, Output, TokenLogprob
from yuan_inference.engine.sampler import NothingBeforeMinimum, Sampler
from yuan_inference.engine.scheduler import Scheduler, Turn
from yuan_inference.engine.sequence import Sequence
from yuan_inference.engine.structure import StructureError
from yuan_inference.engine.task import Task
from yuan_inference.ranks import RankLost
from yuan_model import Chunk, NativeRunner, Runner

_LOGGER = logging.getLogger("yuan_inference.engine")


class _Computed(NamedTuple):
    """What a step has computed.

    Attributes:
        turns: of whom; those that failed are missing.
        logits: of their wanted tokens, in their order.
        likeliest: of each row of logits; None: not known.
    """

    turns: list[Turn]
    logits: Tensor
    likeliest: list[int] | None = None


_NOTHING = _Computed([], torch.empty(0, 0))


@dataclass(slots=True)
class _Drawing:
    """A sequence that draws in this step.

    Attributes:
        sequence: whose.
        row: of the logits, for its next token.
        guesses: tokens that were computed as if they had been drawn.
        right: how many of them have turned out right.
    """

    sequence: Sequence
    row: int
    guesses: tuple[int, ...]
    right: int = 0


class Stepper:
    """Computes the steps of one engine."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        sampler: Sampler,
        *,
        metrics: ModelMetrics,
        tell: Callable[[Task, Output], None],
        wake: Callable[[], None],
    ) -> None:
        """Makes a stepper.

        Args:
            runner: computes.
            scheduler: plans.
            sampler: draws.
            metrics: counts.
            tell: takes outputs.
            wake: wakes those who have been told of something.
        """
        self.runner = runner
        self._scheduler = scheduler
        self._block_tokens = scheduler.blocks.tokens
        self._sampler = sampler
        self._metrics = metrics
        self._tell = tell
        self._wake = wake
        self._counted = (0, 0, 0)

    def step(self) -> None:
        """Makes one step, if there is anything to compute."""
        turns = self._scheduler.plan()
        self._count()
        if not turns:
            self._wake()
            return
        for turn in turns:
            sequence = turn.sequence
            if len(sequence.blocks) > sequence.placed or not sequence.task.started:
                self._place(sequence)
        # Only now, so that what the last step told is read while this one is computed, and not while it is planned.
        self._wake()
        computed = self._compute(turns)
        if not computed.turns:
            return
        drawing = self._see(computed.turns, computed.logits)
        while drawing:
            drawing = self._draw(drawing, computed)

    # --- computing ----------------------------------------------------------------------------------------------

    def _place(self, sequence: Sequence) -> None:
        """Tells the runner of blocks that are new to a sequence."""
        if len(sequence.blocks) > sequence.placed:
            self.runner.place(sequence.row, sequence.placed, sequence.blocks[sequence.placed :])
            sequence.placed = len(sequence.blocks)
        task = sequence.task
        if not task.started:
            task.started = time.monotonic()
            self._metrics.queue.observe(task.started - task.arrived)

    def _compute(self, turns: list[Turn]) -> _Computed:
        """Computes all turns together, or where that fails one by one, so that only the guilty end."""
        runner = self.runner
        try:
            logits = runner.step([_chunk(turn) for turn in turns])
        except RankLost:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the network or its memory raises
            return self._compute_apart(turns, error)
        if self._scheduler.allowed < self._scheduler.limits.rows:
            self._scheduler.recover()
        return _Computed(turns, logits, runner.likeliest() if isinstance(runner, NativeRunner) else None)

    def _compute_apart(self, turns: list[Turn], error: Exception) -> _Computed:
        if len(turns) == 1:
            self.fail(turns[0].sequence.task, error, Failure.memory if _is_memory(error) else Failure.request)
            return _NOTHING
        if _is_memory(error):
            # Who gives way is computed again later; the others have not been told of anything yet.
            self._scheduler.shrink()
            _LOGGER.warning("memory is short: %d sequences run at once now", self._scheduler.allowed)
            return _NOTHING
        _LOGGER.warning("a step of %d sequences failed: %s", len(turns), one_line(error))
        done: list[Turn] = []
        parts: list[Tensor] = []
        for turn in turns:
            if turn.sequence.row < 0:  # its request has failed in this step
                continue
            computed = self._compute([turn])
            done += computed.turns
            parts.append(computed.logits.clone())
        done_rows = [part for part in parts if part.numel()]
        kept = [turn for turn in done if turn.sequence.row >= 0]
        if len(kept) < len(done):  # a later branch of a request failed, and with it this one
            return self._compute(kept) if kept else _NOTHING
        return _Computed(done, torch.cat(done_rows) if done_rows else _NOTHING.logits)

    def _see(self, turns: list[Turn], logits: Tensor) -> list[_Drawing]:
        """Takes what was computed as held, and returns who draws."""
        drawing: list[_Drawing] = []
        begun: list[Sequence] = []
        row = 0
        for turn in turns:
            sequence, first_row = turn.sequence, row
            row += turn.outputs
            share = turn.stop - len(turn.guesses)
            if sequence.held < sequence.prompt_length:
                self._metrics.prompt_tokens.inc(min(share, sequence.prompt_length) - sequence.held)
            sequence.held = share
            if share - sequence.registered >= self._block_tokens:
                self._register(sequence)
            if sequence.task.scores_prompt and sequence.scores_prompt:
                self._score(sequence, turn, logits, first_row)
            if share == len(sequence.tokens):
                drawing.append(_Drawing(sequence, row - 1 - len(turn.guesses), turn.guesses))
                if turn.guesses:
                    self._metrics.guessed_tokens.inc(len(turn.guesses))
                if share == sequence.prompt_length:
                    begun.append(sequence)
        for sequence in begun:
            self._begin_branches(sequence)
        return drawing

    def _register(self, sequence: Sequence) -> None:
        """Makes blocks that have become full known to the prefix cache."""
        tokens = self._block_tokens
        first, full = sequence.registered // tokens, sequence.held // tokens
        self._scheduler.blocks.register(sequence.tokens, sequence.blocks, first, full, sequence.adapter)
        sequence.registered = full * tokens

    def _score(self, sequence: Sequence, turn: Turn, logits: Tensor, first_row: int) -> None:
        """Says how probable the prompt's tokens behind the computed ones were; their logits begin at a row."""
        task = sequence.task
        following = sequence.tokens[turn.start + 1 : min(turn.stop + 1, sequence.prompt_length)]
        asked = task.request.sampling.prompt_logprobs or 0
        rows = list(range(first_row, first_row + len(following)))
        task.prompt_logprobs += self._sampler.logprobs(logits, rows, following, [asked] * len(following))
        if turn.stop >= sequence.prompt_length:
            task.prompt_is_told = True

    def _begin_branches(self, sequence: Sequence) -> None:
        """Lets a request's other continuations begin, now that their prompt is known to the cache."""
        task = sequence.task
        count = task.request.sampling.branches
        if task.in_step or count == 1 or len(task.branches) > 1 or task.request.sampling.max_tokens == 0:
            return
        copies = [sequence.sibling(index) for index in range(1, count)]
        task.branches += copies
        self._scheduler.waiting.add_copies(copies)

    # --- drawing ------------------------------------------------------------------------------------------------

    def _draw(self, drawing: list[_Drawing], computed: _Computed) -> list[_Drawing]:
        """Draws one token for each and returns those whose guesses have logits for another."""
        searching: list[_Drawing] = []
        plain: list[_Drawing] = []
        for one in drawing:
            sequence = one.sequence
            if sequence.task.in_step:
                searching.append(one)
            elif sequence.longest > sequence.prompt_length:
                plain.append(one)
            else:  # nothing is to be drawn
                self._finish(sequence, sequence.output("", (), FinishReason.length))
        again: list[_Drawing] = []
        if plain:
            drawn = self._sampler.draw(
                computed.logits, [one.row for one in plain], [one.sequence for one in plain], computed.likeliest
            )
            now = time.monotonic()
            for place, one in enumerate(plain):
                error = drawn.errors.get(place)
                if self._take(one, drawn.tokens[place], error, drawn.logprobs.get(place), now):
                    again.append(one)
            self._metrics.tokens_drawn()
        for one in searching:
            self._search(one.sequence, computed.logits[one.row])
        return again

    def _take(
        self, one: _Drawing, token: int, error: Exception | None, logprob: TokenLogprob | None, now: float
    ) -> bool:
        """Takes a drawn token; returns whether the next one can be drawn from this step's logits too."""
        sequence, task = one.sequence, one.sequence.task
        if sequence.finished:  # its request has failed in this step
            return False
        try:
            if error is not None:
                raise error
            output = sequence.take(token, self._sampler.end_ids)
        except Exception as wrong:  # noqa: BLE001 - only this request's
            self.fail(task, wrong, _fault(wrong))
            return False
        if logprob is not None:
            sequence.score += logprob.logprob
            output.score = sequence.score if output.finish_reason is not None else None
            if output.token_ids and sequence.sampling.logprobs is not None:
                output.logprobs = (logprob,)
        if output.token_ids:
            self._time(sequence, now)
        if output.finish_reason is not None:
            self._finish(sequence, output)
            return False
        if task.keeps_back:
            task.tell(output)  # kept there until all have ended
        else:
            self._tell(task, task.marked(output))
        if one.right < len(one.guesses) and one.guesses[one.right] == token:
            one.right += 1
            one.row += 1
            sequence.held += 1
            self._metrics.right_guesses.inc()
            if sequence.held - sequence.registered >= self._block_tokens:
                self._register(sequence)
            return True
        return False

    def _time(self, sequence: Sequence, now: float) -> None:
        metrics = self._metrics
        if sequence.last_token:
            metrics.gap(now - sequence.last_token)
        else:
            metrics.gap(None)
            task = sequence.task
            if not task.first_token:
                task.first_token = now
                metrics.first_token.observe(now - task.arrived)
                metrics.prefill.observe(now - task.started)
        sequence.last_token = now

    def _search(self, sequence: Sequence, logits: Tensor) -> None:
        """Takes a search's continuation as ready; the last one of them to be decides how it goes on."""
        task = sequence.task
        if sequence.finished or task.search is None:
            return
        try:
            sequence.candidates = self._sampler.candidates(logits, sequence, task.search.candidates)
            if any(one.candidates is None for one in task.branches):
                return
            followed = task.search.advance(task.branches)
            now = time.monotonic()
            self._time(sequence, now)
            self._metrics.tokens_drawn()
            if followed:
                self._follow(task, followed)
                return
            outputs = task.search.outputs()
        except Exception as error:  # noqa: BLE001 - only this request's
            self.fail(task, error, _fault(error))
            return
        self._drop(task)
        for output in outputs:
            self._tell(task, output)

    def _follow(self, task: Task, followed: list[Branch]) -> None:
        parents = task.branches
        task.branches = []
        begun: list[Sequence] = []
        for branch in followed:
            parent = branch.parent
            # The first to follow a continuation goes on in its place; others begin behind its whole blocks.
            if any(one is parent for one in task.branches):
                continue
            others = [one for one in followed if one.parent is parent][1:]
            begun += [parent.fork(other.token, other.score, other.told) for other in others]
            parent.go_on(branch.token, branch.score, branch.told)
            task.branches.append(parent)
        for parent in parents:
            if not any(one is parent for one in task.branches):
                parent.finished = True
                self._scheduler.remove(parent)
        task.branches += begun
        for one in begun:
            self._scheduler.waiting.put_back(one)

    # --- ending -------------------------------------------------------------------------------------------------

    def _finish(self, sequence: Sequence, output: Output) -> None:
        """Ends one continuation: frees what it holds, and only then tells."""
        task = sequence.task
        sequence.finished = True
        self._scheduler.remove(sequence)
        self._metrics.tokens_drawn()
        for told in task.tell(output):
            self._tell(task, told)

    def end(self, task: Task, output: Output) -> None:
        """Ends a whole request."""
        self._drop(task)
        self._tell(task, task.end(output))

    def fail(self, task: Task, error: Exception, failure: Failure) -> None:
        """Ends a request that cannot be computed."""
        _LOGGER.error("request %s failed: %s", task.request.id, one_line(error))
        for sequence in task.branches:
            # What it wrote may be no numbers; a block's next owner must not find them.
            self.runner.clear(self._scheduler.blocks.spoil(sequence.blocks))
        self.end(task, Output(finish_reason=FinishReason.error, error=one_line(error), failure=failure))

    def _drop(self, task: Task) -> None:
        for sequence in task.branches:
            sequence.finished = True
            self._scheduler.remove(sequence)

    def _count(self) -> None:
        """Tells the metrics what the scheduler has counted since the last step."""
        blocks = self._scheduler.blocks
        counted = (self._scheduler.preemptions, blocks.queries, blocks.hits)
        if counted == self._counted:
            return
        counters = (self._metrics.preemptions, self._metrics.prefix_queries, self._metrics.prefix_hits)
        for counter, now, before in zip(counters, counted, self._counted, strict=True):
            counter.inc(now - before)
        self._counted = counted


def _chunk(turn: Turn) -> Chunk:
    sequence = turn.sequence
    tokens = [*sequence.tokens, *turn.guesses] if turn.guesses else sequence.tokens
    return Chunk(tokens, turn.start, turn.stop, sequence.row, turn.outputs, sequence.adapter)


def _fault(error: Exception) -> Failure:
    """Returns whose fault it is that no token was drawn."""
    if isinstance(error, StructureError):
        return Failure.structure
    return Failure.minimum if isinstance(error, NothingBeforeMinimum) else Failure.request


def _is_memory(error: Exception) -> bool:
    """Tells whether an error is one of memory; torch on a processor has no class for that."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate" in str(error)
