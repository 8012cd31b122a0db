"""The engine: takes requests from any thread, computes them together in one of its own, delivers token by token.

Between two steps sequences join, leave, are aborted; nothing locks anything while a step is computed. What goes wrong
with one request ends that one.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

import torch
from prometheus_client import CollectorRegistry

from yuan_events import one_line
from yuan_inference.engine.adapters import Adapters, read_adapter
from yuan_inference.engine.beam import BeamSearch
from yuan_inference.engine.blocks import BlockPool
from yuan_inference.engine.metrics import EngineMetrics
from yuan_inference.engine.options import (
    EngineLoad,
    EngineOptions,
    EngineStopped,
    QueueFull,
    UnknownAdapter,
    pool_size,
    scored_tokens,
)
from yuan_inference.engine.request import Deliver, Failure, FinishReason, Output, Request
from yuan_inference.engine.runners import make_runner
from yuan_inference.engine.sampler import Sampler
from yuan_inference.engine.scheduler import Limits, Scheduler
from yuan_inference.engine.sequence import Sequence
from yuan_inference.engine.stepping import Stepper
from yuan_inference.engine.structure import Structures
from yuan_inference.engine.task import Task
from yuan_inference.loaded import LoadedModel
from yuan_inference.ranks import RankedRunner, RankLost, start_ranks
from yuan_model import PoolSize, Runner, blocks_needed

_LOGGER = logging.getLogger("yuan_inference.engine")

_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0
"""Between two attempts to start ranks that do not come up."""


class Engine:
    """Serves one model. `close` it, or leave its context."""

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        options: EngineOptions | None = None,
        metrics: EngineMetrics | None = None,
        watch: Callable[[float], None] | None = None,
    ) -> None:
        """Reads the weights, allocates the cache and starts the thread.

        Args:
            name: of the model, in metrics and logs.
            loaded: model and tokenizer.
            options: how much at once.
            metrics: where load and times are shown; None: nowhere.
            watch: called with the part of the weights that has been read.

        Raises:
            InputError: if the options ask for what cannot be, or weights cannot be read.
            MemoryError: if there is no memory for weights or cache.
            RankLost: if a rank dies on the way.
        """
        self.name = name
        self.loaded = loaded
        self.options = options or EngineOptions()
        size = pool_size(loaded, self.options)
        self._pool_tokens = size.tokens
        limits = Limits(
            rows=size.rows,
            prompt_tokens=self.options.step_tokens,
            scored=scored_tokens(loaded, self.options),
            guesses=self.options.prompt_lookup,
        )
        self._metrics = (metrics or EngineMetrics(CollectorRegistry())).of(name)
        self._scheduler = Scheduler(
            BlockPool(size.blocks, keep_prefixes=self.options.prefix_cache, tokens=size.block_tokens), limits
        )
        self._structures = Structures(loaded.tokenizer, loaded.end_ids)
        # What other threads say, until the engine's thread looks: guarded by the condition, as is `_known`.
        self._changed = threading.Condition()
        runner = self._make_runner(size, watch)
        self._ranks = runner if isinstance(runner, RankedRunner) else None
        self._stepper = Stepper(
            runner,
            self._scheduler,
            Sampler(loaded.tokenizer.vocab_size, loaded.end_ids),
            metrics=self._metrics,
            tell=self._tell,
            wake=self._wake,
        )
        self._adapters = Adapters(self._stepper.runner, loaded.config)
        self._numbers = count()
        self._to_wake: set[Callable[[], None]] = set()
        self._arrived: list[Sequence] = []
        self._aborted: list[str] = []
        self._commands: list[Callable[[], None]] = []
        self._known: dict[str, Task] = {}
        self._closing = self._aborting = False
        self._thread = threading.Thread(target=self._run, name=f"engine-{name}", daemon=True)
        self._thread.start()

    # --- from any thread ----------------------------------------------------------------------------------------

    @property
    def longest(self) -> int:
        """Tokens that one request may have in all."""
        return min(self.loaded.context, self._pool_tokens)

    def widest_search(self, tokens: int) -> int:
        """Returns how many beams of so many tokens each fit at once."""
        blocks = self._scheduler.blocks
        return min(self.options.max_batch, blocks.total // blocks_needed(tokens, blocks.tokens))

    @property
    def unfinished(self) -> int:
        """Requests that run or wait."""
        with self._changed:
            return len(self._known)

    @property
    def _waiting(self) -> int:
        return self._scheduler.waiting.requests + len(self._arrived)

    @property
    def used_blocks(self) -> int:
        """Blocks of the cache that requests hold."""
        return self._scheduler.used_blocks

    @property
    def load(self) -> EngineLoad:
        """What there is to do."""
        scheduler = self._scheduler
        return EngineLoad(
            running=len(scheduler.running),
            waiting=self._waiting,
            max_running=self.options.max_batch,
            max_waiting=self.options.max_waiting,
            used_blocks=scheduler.blocks.used,
            total_blocks=scheduler.blocks.total,
            block_tokens=scheduler.blocks.tokens,
        )

    @property
    def is_alive(self) -> bool:
        """Whether its thread has not ended yet."""
        return self._thread.is_alive()

    @property
    def healthy(self) -> bool:
        """Whether it can compute: false while one of its ranks is dead."""
        return self.is_alive and not self._lost

    @property
    def _lost(self) -> str:
        return "" if self._ranks is None else self._ranks.lost

    @property
    def ranks(self) -> list[int]:
        """The processes that share the model; empty where this one has it."""
        return [] if self._ranks is None else self._ranks.pids

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that requests may ask for."""
        return self._adapters.names

    def set_adapters(self, folders: Mapping[str, Path]) -> None:
        """Has these LoRA adapters and no others, by name; all of it or nothing. Those that are there already stay.

        No request is lost: those that run go on with what they began with, whose memory is free after the last of them.

        Raises:
            InputError: if one is none, or belongs to another model.
            EngineStopped: if the engine has ended.
        """
        present = self._adapters.folders
        if present == folders:
            return
        new = {
            name: read_adapter(folder, self.loaded.config)
            for name, folder in folders.items()
            if present.get(name) != folder
        }

        def change() -> None:
            added = self._adapters.add(new)
            with self._changed:  # so that who submits has a number that is used, or the next one
                self._adapters.change(folders, added, self._used_adapters())

        self.between_steps(change)

    def _used_adapters(self) -> set[int]:
        with self._changed:
            return {branch.adapter for task in self._known.values() for branch in task.branches}

    def submit(self, request: Request, deliver: Deliver, wake: Callable[[], None] | None = None) -> None:
        """Puts a request into the queue. With `sampling.structure` this may take a second: call it in a thread then.

        Args:
            request: with `prompt_ids` and `max_tokens` that together are not longer than `longest`.
            deliver: takes its outputs.
            wake: called behind each step in which something was delivered, once for all requests that have it.

        Raises:
            QueueFull: if too many wait.
            EngineStopped: if it is closed.
            StructureError: if `structure` is no grammar.
            UnknownAdapter: if there is no adapter of that name.
            ValueError: if a request of that id is there, it is too long, or a search is wider than what runs at once.
        """
        first = self._first_sequence(request, deliver, wake)
        with self._changed:
            if self._closing:
                raise EngineStopped(f"model {self.name} is being replaced or stopped")
            if request.id in self._known:
                raise ValueError(f"there is a request {request.id} already")
            if self._waiting >= self.options.max_waiting:
                raise QueueFull(
                    f"{self._waiting} requests wait for model {self.name}, which is all that may (serving.max_waiting)"
                )
            if request.adapter:
                first.adapter = self._adapter_of(request)
            self._known[request.id] = first.task
            self._arrived.append(first)
            self._changed.notify()

    def _first_sequence(self, request: Request, deliver: Deliver, wake: Callable[[], None] | None) -> Sequence:
        sampling = request.sampling
        whole = len(request.prompt_ids) + sampling.max_tokens
        if not request.prompt_ids or whole > self.longest:
            raise ValueError(f"request {request.id} has no prompt or is longer than {self.longest} tokens")
        if sampling.beam is not None and sampling.beam.width > (fitting := self.widest_search(whole)):
            raise ValueError(f"a search of width {sampling.beam.width} does not fit; at most {fitting} here")
        adapter = self._adapter_of(request) if request.adapter else -1
        matcher = None if sampling.structure is None else self._structures.matcher(sampling.structure)
        task = Task(request, deliver, next(self._numbers), wake)
        if sampling.beam is not None:
            task.search = BeamSearch(task, self.loaded.tokenizer, self.loaded.end_ids)
        first = Sequence.begin(task, 0, self.loaded.tokenizer, adapter, matcher)
        task.branches.append(first)
        return first

    def _adapter_of(self, request: Request) -> int:
        adapter = self._adapters.number(request.adapter)
        if adapter is None:
            raise UnknownAdapter(f"model {self.name} has no adapter {request.adapter}")
        return adapter

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

    def between_steps(self, work: Callable[[], Any]) -> Any:
        """Calls a function in the engine's thread, between two steps, and returns what it returns.

        Raises:
            EngineStopped: if the engine has ended.
            Exception: what the function raises.
        """
        done: Future[Any] = Future()

        def call() -> None:
            try:
                done.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where the caller waits
                done.set_exception(error)

        with self._changed:
            if not self._thread.is_alive():
                raise EngineStopped(f"model {self.name} has stopped")
            self._commands.append(call)
            self._changed.notify()
        return done.result()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- in the engine's thread ---------------------------------------------------------------------------------

    def _make_runner(self, size: PoolSize, watch: Callable[[float], None] | None) -> Runner:
        if self.options.tensor == 1:
            return make_runner(self.loaded.watched(watch), size)

        def on_lost() -> None:
            with self._changed:
                self._changed.notify()

        options = self.options
        return start_ranks(
            self.name,
            self.loaded,
            size,
            options.tensor,
            step_seconds=options.step_seconds,
            on_lost=on_lost,
            watch=watch,
            devices=options.devices,
        )

    def _run(self) -> None:
        with torch.inference_mode():
            while self._take_news():
                try:
                    if self._lost:
                        raise RankLost(self._lost)
                    self._stepper.step()
                except RankLost as error:
                    self._restart(error)
                except Exception as error:
                    # Not one request's fault: what was planned is not known any more. The next ones begin afresh.
                    _LOGGER.exception("engine %s: a step failed; its requests end", self.name)
                    self._end_with({one.task for one in self._scheduler.everything()}, error)
                self._show()
        self._show()
        self._wake()
        if self._ranks is not None:
            self._ranks.close()

    def _restart(self, error: RankLost) -> None:
        """Starts the ranks anew: who was running ends, who waits goes on waiting, unless that fails."""
        if self._ranks is None:
            raise error
        _LOGGER.error("%s; the ranks are started anew", one_line(error))
        self._end_with({one.task for one in self._scheduler.running}, error)
        self._scheduler.blocks.forget_all()
        pause = _FIRST_PAUSE_SECONDS
        while not self._closing:
            try:
                self._ranks.restart()
            except Exception as again:  # noqa: BLE001 - whatever it is, the server lives and tries on
                _LOGGER.error("engine %s cannot be started: %s", self.name, one_line(again))
                with self._changed:
                    for sequence in self._arrived:
                        self._scheduler.waiting.add(sequence)
                    self._arrived.clear()
                    self._end_with({one.task for one in self._scheduler.everything()}, again)
                    self._changed.wait_for(lambda: self._closing, pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            _LOGGER.warning("engine %s computes again", self.name)
            return
        self._end_with({one.task for one in self._scheduler.everything()}, error)

    def _end_with(self, tasks: set[Task], error: Exception) -> None:
        for task in tasks:
            self._stepper.fail(task, error, Failure.engine)
        self._wake()

    def _take_news(self) -> bool:
        """Takes what arrived and was aborted; waits while there is nothing to do. False: the thread is to end."""
        scheduler = self._scheduler
        with self._changed:
            while not (self._has_news or self._closing or self._has_work or self._lost):
                self._wake()
                self._show()
                self._changed.wait()
            for sequence in self._arrived:
                scheduler.waiting.add(sequence)
            self._arrived.clear()
            ended = [self._known[name] for name in dict.fromkeys(self._aborted) if name in self._known]
            self._aborted.clear()
            commands, self._commands = self._commands, []
            if self._aborting:
                ended = list(self._known.values())
        for command in commands:
            command()
        for task in ended:
            self._stepper.end(task, Output(finish_reason=FinishReason.abort))
        return not self._closing or self._has_work or bool(self._arrived)

    @property
    def _has_news(self) -> bool:
        return bool(self._arrived or self._aborted or self._commands)

    @property
    def _has_work(self) -> bool:
        return bool(self._scheduler.running or self._scheduler.waiting)

    def _tell(self, task: Task, output: Output) -> None:
        """Delivers an output; before the last one the request is forgotten, so that its id is free when it is told."""
        if output.last:
            with self._changed:
                self._known.pop(task.request.id, None)
            if output.finish_reason is not None:
                self._metrics.end(task, output.finish_reason, time.monotonic())
        if task.wake is not None:
            self._to_wake.add(task.wake)
        try:
            task.deliver(output)
        except Exception as error:  # noqa: BLE001 - whoever listened has gone
            _LOGGER.debug("nobody takes the output of request %s: %s", task.request.id, one_line(error))

    def _wake(self) -> None:
        """Wakes those who have been told of something since the last time."""
        for wake in self._to_wake:
            try:
                wake()
            except Exception as error:  # noqa: BLE001 - whoever listened has gone
                _LOGGER.debug("nobody listens: %s", one_line(error))
        self._to_wake.clear()

    def _show(self) -> None:
        scheduler = self._scheduler
        self._metrics.load(running=len(scheduler.running), waiting=self._waiting, usage=scheduler.usage)
