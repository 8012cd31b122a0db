"""From a topology and a model to the grid and the stages that a run has, every rule checked before a rank starts."""

from dataclasses import dataclass
from typing import Any, cast

from yuan_events import InputError
from yuan_manifest.schema import Topology
from yuan_model import YuanConfig
from yuan_parallel.cost import layer_flops_per_token, logits_flops_per_token
from yuan_parallel.grid import Grid
from yuan_parallel.stages import StagePlan, balanced_stages, uniform_stages


@dataclass(frozen=True)
class ParallelPlan:
    """What a topology comes to for one run.

    Attributes:
        grid: the ranks.
        stages: transformer layers per pipeline stage.
        micro_batches: of one step, per data-parallel replica.
    """

    grid: Grid
    stages: StagePlan
    micro_batches: int


def plan_parallel(
    topology: Topology, config: YuanConfig, *, sequence_length: int, global_batch_size: int, micro_batch_size: int
) -> ParallelPlan:
    """Resolves `auto` values of a topology for a model and a batch, and checks that they fit.

    Args:
        topology: the resolved topology section.
        config: the network.
        sequence_length: tokens of a sample.
        global_batch_size: samples a step.
        micro_batch_size: samples a micro-batch.

    Raises:
        InputError: if the stages do not fit the model, or the ranks or micro-batches do not come out even.
    """
    parallel = topology.parallel
    devices = topology.nodes.count * topology.nodes.devices
    stages = _stages(parallel.stages, parallel.pipeline, config, sequence_length)
    if global_batch_size % micro_batch_size != 0:
        raise InputError(
            f"train.global_batch_size: {global_batch_size} is not a multiple of "
            f"train.micro_batch_size {micro_batch_size}"
        )
    micro_batches = global_batch_size // micro_batch_size
    data = _data_size(parallel.data, devices, parallel.pipeline, micro_batches)
    grid = Grid(pipeline=parallel.pipeline, data=data)
    if grid.ranks > devices:
        raise InputError(
            f"topology.parallel: pipeline {grid.pipeline} x data {grid.data} needs {grid.ranks} devices, "
            f"topology.nodes has {devices}; lower one of the sizes or raise topology.nodes.devices"
        )
    if micro_batches % data != 0:
        raise InputError(
            f"topology.parallel.data: {micro_batches} micro-batches a step (train.global_batch_size "
            f"{global_batch_size} / train.micro_batch_size {micro_batch_size}) cannot be shared evenly by {data} "
            "replicas"
        )
    return ParallelPlan(grid=grid, stages=stages, micro_batches=micro_batches // data)


def _stages(stages: Any, pipeline: int, config: YuanConfig, sequence_length: int) -> StagePlan:
    layers = config.num_hidden_layers
    where = "topology.parallel.stages"
    if pipeline > layers:
        raise InputError(f"topology.parallel.pipeline: {pipeline} stages are more than the model's {layers} layers")
    if stages == "uniform":
        return uniform_stages(layers, pipeline)
    if stages == "auto":
        cost = layer_flops_per_token(config, sequence_length)
        return balanced_stages([cost] * layers, 0.0, logits_flops_per_token(config), pipeline)
    if not isinstance(stages, list | tuple) or not all(
        isinstance(count, int) for count in cast("list[object]", stages)
    ):
        raise InputError(f"{where}: expected auto, uniform or a list of whole numbers, found {stages!r}")
    counts = tuple(cast("list[int]", stages))
    if len(counts) != pipeline:
        raise InputError(
            f"{where}: {list(counts)} is for {len(counts)} stages, topology.parallel.pipeline is {pipeline}"
        )
    if sum(counts) != layers:
        raise InputError(
            f"{where}: {list(counts)} sums to {sum(counts)}, model.num_hidden_layers is {layers}; they must be equal"
        )
    try:
        return StagePlan(counts)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _data_size(data: Any, devices: int, pipeline: int, micro_batches: int) -> int:
    if data != "auto":
        if not isinstance(data, int) or data < 1:
            raise InputError(f"topology.parallel.data: expected auto or a whole number from 1, found {data!r}")
        return data
    most = max(1, devices // pipeline)
    return max(size for size in range(1, most + 1) if micro_batches % size == 0)
