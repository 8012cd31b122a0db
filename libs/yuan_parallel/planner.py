"""`stages: auto`: which stage holds how many layers, so that neither the slowest nor the fullest stage is any worse.

Time: a pipeline is paced by its slowest stage. Memory: early stages hold more micro-batches in flight, the first and
the last the embedding, the last the logits. A pace and a memory limit each say how many layers a stage may have at
most; the lowest limits under which all layers find a place give the divisions that are looked at and simulated, as is
the even one. What is chosen needs no more memory than that, and no more time where both fit.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from yuan_parallel.memory import memory_of_stages, stage_memory
from yuan_parallel.simulation import simulate
from yuan_parallel.stages import StagePlan, uniform_stages
from yuan_parallel.times import ends_seconds, seconds_of_stage, stage_seconds
from yuan_parallel.training import Devices, Division, Training

_PACES = 4
"""Paces that are looked at, from the quickest on."""

_AS_QUICK = 1.005
"""A step that takes so much longer than the quickest is as quick: the one that needs less memory is taken."""


@dataclass(frozen=True)
class _Judged:
    stages: StagePlan
    seconds: float
    peak: float


def planned_stages(training: Training, division: Division, devices: Devices) -> StagePlan:
    """Returns the planner's division of the layers.

    Args:
        training: what is trained.
        division: whose stages are to be found; its own are not looked at.
        devices: as far as they are known (`given_devices`).
    """
    layers, pipeline = training.network.num_hidden_layers, division.pipeline
    even = _judge(training, division.with_stages(uniform_stages(layers, pipeline)), devices)
    if pipeline in (1, layers):
        return even.stages
    found = {even.stages: even}
    for stages in _candidates(training, division, devices):
        if stages not in found:
            found[stages] = _judge(training, division.with_stages(stages), devices)
    return _best(even, list(found.values()), devices.memory).stages


def _best(even: _Judged, found: Sequence[_Judged], memory: float | None) -> _Judged:
    limit = float("inf") if memory is None else memory
    no_larger = [one for one in found if one.peak <= even.peak]
    if all(one.peak > limit for one in no_larger):
        return min(no_larger, key=lambda one: (one.peak, one.seconds))
    fitting = [one for one in no_larger if one.peak <= limit]
    if even.peak <= limit:
        fitting = [one for one in fitting if one.seconds <= even.seconds]
    quickest = min(one.seconds for one in fitting)
    return min((one for one in fitting if one.seconds <= quickest * _AS_QUICK), key=lambda one: (one.peak, one.seconds))


def _judge(training: Training, division: Division, devices: Devices) -> _Judged:
    seconds = simulate(stage_seconds(training, division, devices), division.micro_batches(training)).seconds
    peak = max(one.total for one in memory_of_stages(training, division))
    return _Judged(division.stages, seconds + ends_seconds(training, division, devices), peak)


def _candidates(training: Training, division: Division, devices: Devices) -> Iterator[StagePlan]:
    """Yields divisions: for each of the quickest paces the one that needs least memory, and the most even one."""
    layers, pipeline = training.network.num_hidden_layers, division.pipeline
    most = layers - pipeline + 1
    # By stage and number of layers, from 1: a stage's place in the network only matters for its two ends here.
    costs: list[list[float]] = [[] for _ in range(pipeline)]
    sizes: list[list[float]] = [[] for _ in range(pipeline)]
    for count in range(1, most + 1):
        for stage, one in enumerate(_stages_of(count, layers, pipeline)):
            seconds = seconds_of_stage(training, division.with_stages(one), devices, stage)
            costs[stage].append(seconds.forward + seconds.backward)
            sizes[stage].append(stage_memory(training, division.with_stages(one), stage).total)
    paces = sorted({cost for stage in costs for cost in stage})
    quickest = _lowest(paces, lambda pace: _room(costs, pace) >= layers)
    limits = sorted({size for stage in sizes for size in stage})
    for pace in paces[quickest : quickest + _PACES]:
        within = [_count_within(stage, pace) for stage in costs]
        smallest = _lowest(limits, lambda limit, within=within: _room(sizes, limit, within) >= layers)
        if smallest < len(limits):
            both = zip(within, (_count_within(stage, limits[smallest]) for stage in sizes), strict=True)
            yield _filled([min(pair) for pair in both], costs, layers)
        yield _filled(within, costs, layers)


def _stages_of(count: int, layers: int, pipeline: int) -> Iterator[StagePlan]:
    """Yields, for every stage, a division in which that stage has `count` layers; the others share the rest."""
    rest = uniform_stages(layers - count, pipeline - 1).layers
    for stage in range(pipeline):
        yield StagePlan((*rest[:stage], count, *rest[stage:]))


def _count_within(sorted_values: Sequence[float], limit: float) -> int:
    """Returns how many of the values, which rise, are within the limit, a rounding error over it included."""
    return bisect_left(sorted_values, limit * (1 + 1e-12))


def _room(values: Sequence[Sequence[float]], limit: float, within: Sequence[int] | None = None) -> int:
    """Layers that stages can have in all; 0 if one of them can have none."""
    counts = [_count_within(stage, limit) for stage in values]
    if within is not None:
        counts = [min(pair) for pair in zip(counts, within, strict=True)]
    return sum(counts) if min(counts) > 0 else 0


def _lowest(values: Sequence[float], is_enough: Callable[[float], bool]) -> int:
    """Returns the first place among rising values that is enough; their number if none is."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if is_enough(values[middle]):
            high = middle
        else:
            low = middle + 1
    return low


def _filled(most: Sequence[int], costs: Sequence[Sequence[float]], layers: int) -> StagePlan:
    """Returns a division within the limits: each next layer goes where the stage is then quickest, the later of two."""
    counts = [1] * len(most)
    for _ in range(layers - len(most)):
        open_stages = [stage for stage in range(len(most)) if counts[stage] < most[stage]]
        stage = min(open_stages, key=lambda stage: (costs[stage][counts[stage]], -stage))
        counts[stage] += 1
    return StagePlan(tuple(counts))
