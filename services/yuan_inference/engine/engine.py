"""The engine: takes requests from any thread, computes them together in one of its own, delivers token by token.

Between two steps sequences join, leave, are aborted; nothing locks anything while a step is computed. What goes wrong
with one request ends that one.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from yuan_events import YuanError, one_line
from yuan_inference.engine.metrics import EngineMetrics
from yuan_inference.engine.request import Deliver, Failure, FinishReason, Output, Request
from yuan_inference.engine.scheduler import Scheduler, Turn
from yuan_inference.engine.sequence import Sequence
from yuan_inference.loaded import LoadedModel
from yuan_model import Chunk, PagedCache, blocks_needed, bytes_per_token, paged_logits
from yuan_model.generation import sample

_LOGGER = logging.getLogger("yuan_inference.engine")
BLOCK_TOKENS = 16


class QueueFull(YuanError):
    """As many requests wait as may; another try later may succeed."""


class EngineStopped(YuanError):
    """The engine takes no more requests."""


class StructureError(YuanError):
    """A schema, expression or choice that no text can be made of."""


class UnknownAdapter(YuanError):
    """A LoRA adapter that the engine does not have."""


@dataclass(frozen=True)
class EngineLoad:
    """What an engine has to do.

    Attributes:
        running: requests that are computed.
        waiting: requests in the queue.
        max_running: the most that run at once.
        max_waiting: the most that may wait.
        used_blocks: blocks of the cache that requests hold; kept prefixes that nobody uses are free.
        total_blocks: blocks of the cache.
        block_tokens: tokens a block.
    """

    running: int
    waiting: int
    max_running: int
    max_waiting: int
    used_blocks: int
    total_blocks: int
    block_tokens: int


@dataclass(frozen=True)
class EngineOptions:
    """How much an engine does at once.

    Attributes:
        max_batch: requests that run at once.
        kv_tokens: tokens that the cache holds over all requests; None: max_batch contexts, but no more than a quarter
            of the machine's memory holds.
        max_waiting: requests that may wait.
        step_tokens: of prompts that one step computes at most.
        prefix_cache: blocks of prompts are kept for later requests that begin alike.
        prompt_lookup: tokens a step that are guessed from the text before (speculative decoding, the same outputs); 0:
            none.
        tensor: processes that share the model's matrices between them.
    """

    max_batch: int = 16
    kv_tokens: int | None = None
    max_waiting: int = 256
    step_tokens: int = 256
    prefix_cache: bool = True
    prompt_lookup: int = 0
    tensor: int = 1


class Engine:
    """Serves one model. `close` it, or leave its context."""

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        options: EngineOptions | None = None,
        metrics: EngineMetrics | None = None,
    ) -> None:
        """Allocates the cache and starts the thread.

        Args:
            name: of the model, in metrics and logs.
            loaded: model and tokenizer.
            options: how much at once.
            metrics: where load and times are shown; None: nowhere.
        """
        self.name = name
        self.loaded = loaded
        self.options = options or EngineOptions()
        blocks = _blocks(loaded, self.options)
        self.cache = PagedCache(loaded.model, blocks, BLOCK_TOKENS, self.options.max_batch)
        self._metrics = metrics or EngineMetrics(CollectorRegistry())
        self._scheduler = Scheduler(blocks, BLOCK_TOKENS, self.options.max_batch, self.options.step_tokens)
        # What other threads say, until the engine's thread looks: guarded by the condition, as is `_known`.
        self._changed = threading.Condition()
        self._arrived: list[Sequence] = []
        self._aborted: list[str] = []
        self._known: dict[str, Sequence] = {}
        self._waiting = 0
        self._closing = self._aborting = False
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    # --- from any thread ----------------------------------------------------------------------------------------

    @property
    def longest(self) -> int:
        """Tokens that one request may have in all."""
        return min(self.loaded.context, self.cache.tokens)

    @property
    def unfinished(self) -> int:
        """Requests that run or wait."""
        with self._changed:
            return len(self._known)

    @property
    def used_blocks(self) -> int:
        """Blocks of the cache that requests hold."""
        return self._scheduler.used_blocks

    @property
    def load(self) -> EngineLoad:
        """What there is to do."""
        options, scheduler = self.options, self._scheduler
        return EngineLoad(
            running=len(scheduler.running),
            waiting=self._waiting,
            max_running=options.max_batch,
            max_waiting=options.max_waiting,
            used_blocks=scheduler.used_blocks,
            total_blocks=self.cache.tokens // BLOCK_TOKENS,
            block_tokens=BLOCK_TOKENS,
        )

    @property
    def healthy(self) -> bool:
        """Whether it can compute: false while one of its ranks is dead."""
        return self._thread.is_alive()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that requests may ask for."""
        return ()

    def submit(self, request: Request, deliver: Deliver) -> None:
        """Puts a request into the queue. With `sampling.structure` this may take a second: call it in a thread then.

        Args:
            request: with `prompt_ids` and `max_tokens` that together are not longer than `longest`.
            deliver: takes its outputs.

        Raises:
            QueueFull: if too many wait.
            EngineStopped: if it is closed.
            StructureError: if `structure` is no grammar.
            UnknownAdapter: if there is no adapter of that name.
            ValueError: if a request of that id is there, or it is too long.
        """
        if not request.prompt_ids or len(request.prompt_ids) + request.sampling.max_tokens > self.longest:
            raise ValueError(f"request {request.id} has no prompt or is longer than {self.longest} tokens")
        sequence = Sequence(request, deliver)
        sequence.prepare(self.loaded.tokenizer)
        with self._changed:
            if self._closing:
                raise EngineStopped(f"model {self.name} is being replaced or stopped")
            if request.id in self._known:
                raise ValueError(f"there is a request {request.id} already")
            if self._waiting >= self.options.max_waiting:
                raise QueueFull(
                    f"{self._waiting} requests wait for model {self.name}, which is all that may (serving.max_waiting)"
                )
            self._known[request.id] = sequence
            self._arrived.append(sequence)
            self._waiting += 1
            self._changed.notify()

    def abort(self, request_id: str) -> bool:
        """Ends a request at the end of the running step; returns whether it was there."""
        with self._changed:
            if request_id not in self._known:
                return False
            self._aborted.append(request_id)
            self._changed.notify()
            return True

    def close(self, *, abort: bool = True, timeout: float | None = 60.0) -> None:
        """Takes no more requests, and ends.

        Args:
            abort: end those that run or wait; otherwise they are finished first.
            timeout: seconds to wait for that; 0 returns at once.
        """
        with self._changed:
            self._closing = True
            self._aborting = self._aborting or abort
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- in the engine's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        with torch.inference_mode():
            while self._take_news():
                try:
                    self._step()
                except Exception as error:
                    # Not one request's fault: what was planned is not known any more. The next ones begin afresh.
                    _LOGGER.exception("engine %s: a step failed; its requests end", self.name)
                    for sequence in list(self._scheduler.everything()):
                        self._fail(sequence, error)
        self._show()

    def _take_news(self) -> bool:
        """Takes what arrived and was aborted; waits while there is nothing to do. False: the thread is to end."""
        scheduler = self._scheduler
        with self._changed:
            while not (self._arrived or self._aborted or scheduler.running or scheduler.waiting or self._closing):
                self._show()
                self._changed.wait()
            scheduler.waiting.extend(self._arrived)
            self._arrived.clear()
            ended = [self._known[name] for name in dict.fromkeys(self._aborted) if name in self._known]
            self._aborted.clear()
            if self._aborting:
                ended = list(self._known.values())
        for sequence in ended:
            self._end(sequence, Output(finish_reason=FinishReason.abort, last=True))
        return not self._closing or bool(scheduler.running or scheduler.waiting or self._arrived)

    def _step(self) -> None:
        before = self._scheduler.preemptions
        turns = self._scheduler.plan()
        if self._scheduler.preemptions > before:
            self._metrics.preemptions.labels(self.name).inc(self._scheduler.preemptions - before)
        self._show()
        if not turns:
            return
        for turn in turns:
            self._place(turn.sequence)
        for turn, logits_v in self._logits(turns):
            sequence = turn.sequence
            computed = min(turn.stop, len(sequence.request.prompt_ids)) - sequence.held
            sequence.held = turn.stop
            if computed > 0:
                self._metrics.prompt_tokens.labels(self.name).inc(computed)
            if turn.draws:
                self._draw(sequence, logits_v)

    def _place(self, sequence: Sequence) -> None:
        """Tells the cache of blocks that are new to a sequence."""
        if sequence.held == 0:
            self.cache.begin(sequence.row)
            self.cache.place(sequence.row, 0, sequence.blocks)
            if not sequence.started:
                sequence.started = time.monotonic()
                self._metrics.queue.labels(self.name).observe(sequence.started - sequence.arrived)
        elif sequence.held % BLOCK_TOKENS == 0:
            first = sequence.held // BLOCK_TOKENS
            self.cache.place(sequence.row, first, sequence.blocks[first:])

    def _logits(self, turns: list[Turn]) -> Iterable[tuple[Turn, Tensor]]:
        """Computes a step: all turns together, or where that fails one by one, so that only the guilty end."""
        try:
            return zip(turns, self._forward(turns), strict=True)
        except Exception as error:  # noqa: BLE001 - whatever the network or its memory raises
            if len(turns) > 1:
                _LOGGER.warning("engine %s: a step of %d requests failed: %s", self.name, len(turns), one_line(error))
                return [pair for turn in turns for pair in self._logits([turn])]
            self._fail(turns[0].sequence, error)
            return []

    def _forward(self, turns: list[Turn]) -> Tensor:
        """Returns the logits [b, v] of all turns on the processor, fp32."""
        chunks = [Chunk(turn.sequence.tokens, turn.sequence.held, turn.stop, turn.sequence.row) for turn in turns]
        logits_bv = paged_logits(self.loaded.model, self.cache, chunks)
        return logits_bv[:, : self.loaded.tokenizer.vocab_size].float().cpu()

    def _draw(self, sequence: Sequence, logits_v: Tensor) -> None:
        sampling = sequence.request.sampling
        try:
            if not logits_v.max().isfinite():
                raise FloatingPointError("the model computed no finite numbers for it")
            token = sample(logits_v, sampling.temperature, sampling.top_k, sampling.top_p, sequence.generator)
            output = sequence.take(token, self.loaded.end_ids)
        except Exception as error:  # noqa: BLE001 - only this request's
            self._fail(sequence, error)
            return
        now = time.monotonic()
        if output.token_ids:
            self._metrics.token(self.name, sequence, now)
            sequence.first_token = sequence.first_token or now
            sequence.last_token = now
        if output.finish_reason is None:
            self._deliver(sequence, output)
        else:
            self._end(sequence, output)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        _LOGGER.error("request %s failed: %s", sequence.request.id, one_line(error))
        # What it wrote may be no numbers; a block's next owner must not find them.
        if sequence.blocks:
            self.cache.clear(sequence.blocks)
        self._end(
            sequence,
            Output(finish_reason=FinishReason.error, error=one_line(error), failure=Failure.request, last=True),
        )

    def _end(self, sequence: Sequence, output: Output) -> None:
        """Frees what a sequence holds, and only then tells."""
        self._scheduler.remove(sequence)
        with self._changed:
            self._known.pop(sequence.request.id, None)
            self._waiting = len(self._scheduler.waiting) + len(self._arrived)
        if output.finish_reason is not None:
            self._metrics.end(self.name, sequence, output.finish_reason, time.monotonic())
        self._deliver(sequence, output)

    def _deliver(self, sequence: Sequence, output: Output) -> None:
        try:
            sequence.deliver(output)
        except Exception:  # noqa: BLE001 - whoever listened has gone
            _LOGGER.debug("nobody takes the output of request %s", sequence.request.id)

    def _show(self) -> None:
        scheduler = self._scheduler
        with self._changed:
            self._waiting = len(scheduler.waiting) + len(self._arrived)
            waiting = self._waiting
        self._metrics.load(self.name, running=len(scheduler.running), waiting=waiting, usage=scheduler.usage)


def _blocks(loaded: LoadedModel, options: EngineOptions) -> int:
    """Returns how many blocks the cache gets: for one whole context at least."""
    config = loaded.model.config
    context = blocks_needed(loaded.context, BLOCK_TOKENS)
    if options.kv_tokens is not None:
        return max(1, blocks_needed(options.kv_tokens, BLOCK_TOKENS))
    wanted = options.max_batch * context
    memory = _memory_bytes(loaded.model.embed_tokens.weight.device) // 4
    fitting = memory // (BLOCK_TOKENS * bytes_per_token(config, loaded.model.embed_tokens.weight.dtype))
    return max(context, min(wanted, fitting))


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
