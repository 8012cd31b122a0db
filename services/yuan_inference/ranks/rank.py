"""One rank: reads its part of the weights, joins the others, and does what it is ordered."""

import logging
import mmap
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor

from yuan_checkpoint import open_model
from yuan_events import InputError, YuanError, one_line
from yuan_inference.ranks.orders import Message, Order, RankSetup, Reply
from yuan_model import (
    Chunk,
    Division,
    Factors,
    FlashPages,
    FolderWeights,
    NativeRunner,
    NativeUnavailable,
    PagedRunner,
    Runner,
    Yuan,
    empty_network,
    parameter_shapes,
)
from yuan_model.weights import EMBEDDING
from yuan_parallel.tensor import TensorGroup, shard, shard_block_, shard_dimension

_LOGGER = logging.getLogger("yuan_inference.ranks")
_SECONDS_TO_MEET = 300.0
_SECONDS_BETWEEN_REPORTS = 0.1
_collectives = cast("Any", torch.distributed)
"""Of partly unknown types."""


def serve(pipe: Connection, logits: int) -> None:
    """Serves until the pipe is closed.

    Args:
        pipe: to the server.
        logits: descriptor of the memory for logits [outputs, v] fp32, shared by all ranks.
    """
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    setup: RankSetup = pipe.recv()
    try:
        rank = _Rank(setup, logits, lambda part: pipe.send((Reply.progress, part)))
    except Exception as error:  # noqa: BLE001 - the server tells it
        refused = isinstance(error, YuanError | MemoryError)
        pipe.send((Reply.refused if refused else Reply.failed, (isinstance(error, MemoryError), one_line(error))))
        return
    pipe.send((Reply.ready, {"dtype": str(rank.runner.dtype).removeprefix("torch."), "compiled": rank.compiled}))
    with torch.inference_mode():
        while True:
            try:
                message: Message = pipe.recv()
            except EOFError:
                return
            pipe.send(rank.answer(*message))


class _Rank:
    """A rank that can step.

    Attributes:
        runner: computes its part.
        compiled: whether by the compiled step.
    """

    def __init__(self, setup: RankSetup, logits: int, watch: Callable[[float], None]) -> None:
        torch.set_num_threads(setup.threads)
        device = torch.device("cpu")
        if setup.device == "cuda":
            device = torch.device("cuda", setup.devices[setup.rank] if setup.devices else setup.rank)
            torch.cuda.set_device(device)
        _meet(setup)
        division = Division(setup.ranks, setup.rank, shard_dimension)
        dtype = None if setup.dtype is None else getattr(torch, setup.dtype)
        weights = FolderWeights(open_model(setup.folder), dtype, device, division)
        weights.watch = _seldom(watch)
        self._group = TensorGroup(setup.ranks, setup.rank)
        self.runner = self._make_runner(setup, weights)
        self.compiled = isinstance(self.runner, NativeRunner)
        self._first, self._last = division.rows(weights.config.vocab_size)
        outputs, vocabulary = setup.size.outputs, weights.config.vocab_size
        self._memory = mmap.mmap(logits, outputs * vocabulary * 4)
        self._logits = torch.frombuffer(self._memory, dtype=torch.float32).view(outputs, vocabulary)

    def _make_runner(self, setup: RankSetup, weights: FolderWeights) -> Runner:
        try:
            return NativeRunner(
                weights, setup.size, int8=setup.int8, threads=setup.threads, all_reduce=_collectives.all_reduce
            )
        except NativeUnavailable as error:
            if setup.int8:
                raise InputError(f"dtype int8 needs the compiled step: {error}; use bf16 or fp32") from error
            if setup.device == "cpu" and setup.rank == 0:
                _LOGGER.warning("steps are computed by torch, several times slower than compiled: %s", error)
        network = divided_network(weights, self._group)
        first, last = weights.division.rows(weights.config.vocab_size)
        flash = FlashPages.of(weights.config, weights.dtype, weights.device)
        return PagedRunner(network, setup.size, head_vh=network.embed_tokens.weight[first:last], flash=flash)

    def answer(self, orders: Sequence[Order], chunks: Sequence[Chunk] | None) -> tuple[Reply, Any]:
        """Does what is ordered and returns the reply."""
        try:
            result: Any = None
            for name, arguments in orders:
                whose = self if name == "add_adapter" else self.runner
                result = getattr(whose, name)(*arguments)
            if chunks is not None:
                own_ov = self.runner.step(chunks)
                self._logits[: len(own_ov), self._first : self._last] = own_ov
        except Exception as error:  # noqa: BLE001 - whatever the network or its memory raises
            memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
            return Reply.failed, (memory, one_line(error))
        return Reply.done, result

    def add_adapter(self, layers: Sequence[Factors]) -> int:
        """Takes this rank's part of low-rank additions.

        Raises:
            InputError: if the runner cannot compute with them.
        """
        if not isinstance(self.runner, NativeRunner):
            raise InputError("adapters need the compiled step")
        return self.runner.add_adapter([{name: self._part(name, pair) for name, pair in one.items()} for one in layers])

    def _part(self, name: str, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return shard(f"{name}.lora_a", pair[0], self._group), shard(f"{name}.lora_b", pair[1], self._group)


def divided_network(weights: FolderWeights, group: TensorGroup) -> Yuan:
    """Returns a rank's part of a network; the embedding is whole."""
    network = empty_network(weights.config)
    for block in network.layers:
        shard_block_(block, group)
    parameters = {name: weights.tensor(name) for name in parameter_shapes(weights.config) if name != EMBEDDING}
    network.load_state_dict({**parameters, EMBEDDING: weights.tensor(EMBEDDING)}, strict=True, assign=True)
    return network.eval()


def _meet(setup: RankSetup) -> None:
    """Joins the other ranks of this host.

    Raises:
        RuntimeError: if they do not come.
    """
    _collectives.init_process_group(
        "nccl" if setup.device == "cuda" else "gloo",
        init_method=setup.meeting.as_uri(),
        rank=setup.rank,
        world_size=setup.ranks,
        timeout=timedelta(seconds=max(_SECONDS_TO_MEET, setup.seconds)),
    )


def _seldom(watch: Callable[[float], None]) -> Callable[[float], None]:
    """Returns a function that passes a call on where the last one is a while ago, or it is the end."""
    last = 0.0

    def pass_on(part: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_REPORTS or part >= 1.0:
            last = now
            watch(part)

    return pass_on
