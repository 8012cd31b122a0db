"""The ranks of a model as one runner: what the engine orders goes to all, logits come back through shared memory."""

import mmap
import os
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from yuan_corpus.files import anonymous_file
from yuan_events import InputError
from yuan_inference.loaded import LoadedModel
from yuan_inference.ranks.orders import Order, RankLost, RankSetup, Reply, Tail
from yuan_inference.ranks.processes import RankProcesses
from yuan_model import Chunk, Factors, FolderWeights, PoolSize, YuanConfig

_SECONDS_AFTER_A_FAILURE = 5.0
"""That the other ranks have to answer once one has failed: it may have left them waiting in a sum."""


def start_ranks(
    model: str,
    loaded: LoadedModel,
    size: PoolSize,
    ranks: int,
    *,
    step_seconds: float,
    on_lost: Callable[[], None],
    watch: Callable[[float], None] | None = None,
    devices: tuple[int, ...] = (),
) -> "RankedRunner":
    """Starts the ranks of a model and waits until all can step.

    Args:
        model: its name, for messages.
        loaded: opened from a folder; of its weights nothing is read here.
        size: of the pool and of a step.
        ranks: how many processes share its matrices.
        step_seconds: a rank that has not answered for so long is taken for dead.
        on_lost: called from another thread as soon as a rank has gone.
        watch: called with the part of the weights that has been read.
        devices: of CUDA, by number, one a rank; empty: the first ones.

    Raises:
        InputError: if the model cannot be divided so, or there are too few devices.
        RankLost: if a rank dies on the way.
    """
    check_divides(loaded.config, ranks)
    source = loaded.source
    if not isinstance(source, FolderWeights):
        raise InputError("serving.tensor: ranks read weights from a folder, and this model has none")
    device = source.device.type
    if device == "cuda":
        there = torch.cuda.device_count()
        if there < ranks:
            raise InputError(f"serving.tensor: {ranks} ranks want a CUDA device each, and this host has {there}")
        devices = tuple(number % there for number in devices)
    setup = RankSetup(
        rank=0,
        ranks=ranks,
        folder=source.folder.path.absolute(),
        dtype=str(source.dtype).removeprefix("torch."),
        device=device,
        devices=devices,
        int8=loaded.int8,
        size=size,
        threads=max(1, torch.get_num_threads() // ranks),
        meeting=Path(),
        seconds=step_seconds,
    )
    return RankedRunner(model, setup, loaded.config, on_lost, watch)


def check_divides(config: YuanConfig, ranks: int) -> None:
    """Checks that a network can be divided over ranks.

    Raises:
        InputError: naming what is not divisible.
    """
    for name, size in (
        ("num_attention_heads", config.num_attention_heads),
        ("intermediate_size", config.intermediate_size),
    ):
        if size % ranks:
            raise InputError(f"serving.tensor: {ranks} does not divide the model's {name} {size}; choose one that does")


class RankedRunner:
    """See `Runner`. A step that finds a rank dead raises RankLost; `restart` begins anew, with nothing in the pool.

    Attributes:
        size: what it was made for.
        dtype: of keys and values.
        compiled: whether the ranks compute by the compiled step.
    """

    def __init__(
        self,
        model: str,
        setup: RankSetup,
        config: YuanConfig,
        on_lost: Callable[[], None],
        watch: Callable[[float], None] | None = None,
    ) -> None:
        """Starts the ranks; see `start_ranks`."""
        self.size = setup.size
        self.dtype = torch.float32
        self.compiled = False
        self._model, self._setup, self._on_lost, self._watch = model, setup, on_lost, watch
        # With documents that hide each other a rank looks for their beginnings among all tokens.
        self._whole = config.attention_reset_at_eod
        self._orders: list[Order] = []
        self._adapters: dict[int, Sequence[Factors]] = {}
        self._remote: dict[int, int] = {}
        self._added = 0
        shape = (setup.size.outputs, config.vocab_size)
        self._descriptor = anonymous_file("yuan-logits", 4 * shape[0] * shape[1])
        try:
            self._memory = mmap.mmap(self._descriptor, 4 * shape[0] * shape[1])
            self._logits = torch.frombuffer(self._memory, dtype=torch.float32).view(shape)
            self._processes = self._start()
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def lost(self) -> str:
        """Why nothing can be computed; empty: it can."""
        return self._processes.lost

    @property
    def pids(self) -> list[int]:
        """The ranks' processes."""
        return self._processes.pids

    def place(self, row: int, first: int, blocks: Sequence[int]) -> None:
        """Lists blocks as those that hold a sequence's tokens from number `first * size.block_tokens` on."""
        self._orders.append(("place", (row, first, list(blocks))))

    def copy(self, block: int, to_block: int, row: int, to_row: int) -> None:
        """Copies a block and a row's last filter steps."""
        self._orders.append(("copy", (block, to_block, row, to_row)))

    def clear(self, blocks: Sequence[int]) -> None:
        """Empties blocks of a sequence that went wrong."""
        if blocks:
            self._orders.append(("clear", (list(blocks),)))

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Computes a step; see `Runner`.

        Raises:
            RankLost: if a rank is dead or hangs.
            MemoryError: if all ranks want for memory.
            RuntimeError: if the network fails on all ranks.
        """
        self._ask([self._sent(chunk) for chunk in chunks])
        return self._logits[: sum(chunk.outputs for chunk in chunks)]

    def add_adapter(self, layers: Sequence[Factors]) -> int:
        """Takes low-rank additions and returns their number.

        Raises:
            InputError: if the ranks compute with torch, which knows none.
            RankLost: as `step`.
        """
        if not self.compiled:
            raise InputError(
                "adapters need the compiled step (g++, a processor, fp32, bf16 or int8); serve the merged model"
            )
        self._orders.append(("add_adapter", (layers,)))
        remote = self._ask(None)
        number, self._added = self._added, self._added + 1
        self._adapters[number], self._remote[number] = layers, remote
        return number

    def remove_adapter(self, number: int) -> None:
        """Gives the memory of an adapter back."""
        del self._adapters[number]
        self._orders.append(("remove_adapter", (self._remote.pop(number),)))

    def restart(self) -> None:
        """Ends what is left of the ranks and starts them anew, with the adapters they had.

        Raises:
            RankLost: if they cannot be.
            InputError: if the model is not what it was.
        """
        self._processes.close()
        self._orders.clear()
        self._processes = self._start()
        for number, layers in self._adapters.items():
            self._orders.append(("add_adapter", (layers,)))
            self._remote[number] = self._ask(None)

    def close(self) -> None:
        """Ends the ranks."""
        self._processes.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _start(self) -> RankProcesses:
        processes = RankProcesses(self._model, self._setup, self._descriptor, self._on_lost)
        try:
            self._load(processes)
        except BaseException:
            processes.close()
            raise
        return processes

    def _load(self, processes: RankProcesses) -> None:
        """Waits until all ranks are ready."""
        parts = dict.fromkeys(processes.pipes.values(), 0.0)
        left = processes.pipes
        while left:
            for number, (reply, value) in _received(processes, left):
                if reply is Reply.progress:
                    processes.heard()
                    parts[number] = value
                    if self._watch is not None:
                        self._watch(sum(parts.values()) / len(parts))
                    continue
                if reply is not Reply.ready:
                    raise _meaning(reply, value, number)
                processes.answered(number)
                left = {pipe: one for pipe, one in left.items() if one != number}
                self.dtype, self.compiled = getattr(torch, value["dtype"]), value["compiled"]

    def _sent(self, chunk: Chunk) -> Chunk:
        tokens = list(chunk.tokens[: chunk.stop]) if self._whole else list(chunk.tokens[chunk.start : chunk.stop])
        adapter = self._remote[chunk.adapter] if chunk.adapter >= 0 else -1
        start = 0 if self._whole else chunk.start
        return Chunk(Tail(start, tokens), chunk.start, chunk.stop, chunk.row, chunk.outputs, adapter)

    def _ask(self, chunks: Sequence[Chunk] | None) -> Any:
        """Has all ranks do what was ordered and, last, a step; returns rank 0's result."""
        processes = self._processes
        if processes.lost:
            raise RankLost(processes.lost)
        orders, self._orders = self._orders, []
        processes.begin(self._setup.seconds)
        left = processes.pipes
        processes.send_all((orders, chunks))
        failures: dict[int, tuple[bool, str]] = {}
        result: Any = None
        while left:
            for number, (reply, value) in _received(processes, left):
                processes.answered(number)
                left = {pipe: one for pipe, one in left.items() if one != number}
                if reply is Reply.failed:
                    failures[number] = value
                    processes.hurry(_SECONDS_AFTER_A_FAILURE)
                elif number == 0:
                    result = value
        if not failures:
            return result
        number, (memory, text) = next(iter(failures.items()))
        if len(failures) < self._setup.ranks:
            # Ranks that do not agree on what has been computed cannot go on together.
            processes.lose(f"rank {number} failed where another did not: {text}")
            raise RankLost(processes.lost)
        raise MemoryError(text) if memory else RuntimeError(text)


def _received(processes: RankProcesses, left: "dict[Connection[Any, Any], int]") -> list[tuple[int, tuple[Reply, Any]]]:
    """Waits for messages of some of the ranks.

    Raises:
        RankLost: if one has gone.
    """
    found: list[tuple[int, tuple[Reply, Any]]] = []
    for pipe in cast("list[Connection[Any, Any]]", wait(list(left))):
        try:
            found.append((left[pipe], pipe.recv()))
        except (EOFError, OSError):
            raise processes.gone() from None
    return found


def _meaning(reply: Reply, value: tuple[bool, str], number: int) -> Exception:
    memory, text = value
    if reply is Reply.refused:
        return MemoryError(text) if memory else InputError(text)
    return RankLost(f"rank {number} could not begin: {text}")
