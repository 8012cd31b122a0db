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
from yuan_parallel.stages import StagePlan, uniform_stages
from yuan_parallel.times import quick_seconds, seconds_of_stage, simulated_seconds
from yuan_parallel.training import Devices, Division, Training

_PACES = 4
"""Paces that are looked at, from the quickest on."""

_SIMULATED = 2
"""Divisions that are simulated beside the even one."""

_AS_QUICK = 1.005
"""A step that takes so much longer than the quickest is as quick: the one that needs less memory is taken."""


_Seconds = Callable[[Training, Division, Devices], float]


@dataclass(frozen=True)
class _Judged:
    stages: StagePlan
    seconds: float
    peak: float


def planned_stages(training: Training, division: Division, devices: Devices, *, quick: bool = False) -> StagePlan:
    """Returns the planner's division of the layers.

    Args:
        training: what is trained.
        division: whose stages are to be found; its own are not looked at.
        devices: as far as they are known (`given_devices`).
        quick: nothing is simulated, so that what is found may be a little worse.
    """
    layers, pipeline = training.network.num_hidden_layers, division.pipeline
    even = uniform_stages(layers, pipeline)
    if pipeline in (1, layers):
        return even
    found = dict.fromkeys((even, *_candidates(training, division, devices)))
    judged = [_judge(training, division.with_stages(stages), devices, quick_seconds) for stages in found]
    best = _best(judged[0], judged, devices.memory)
    if quick or best is judged[0]:
        return best.stages
    # Some of those that are about as quick are simulated, and so is the even one that they must not be worse than.
    near = sorted(judged[1:], key=lambda one: (one is not best, one.seconds, one.peak))[:_SIMULATED]
    simulated = [
        _judge(training, division.with_stages(one.stages), devices, simulated_seconds) for one in (judged[0], *near)
    ]
    return _best(simulated[0], simulated, devices.memory).stages


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


def _judge(training: Training, division: Division, devices: Devices, seconds: _Seconds) -> _Judged:
    peak = max(one.total for one in memory_of_stages(training, division))
    return _Judged(division.stages, seconds(training, division, devices), peak)


def _candidates(training: Training, division: Division, devices: Devices) -> Iterator[StagePlan]:
    """Yields divisions: for each of the quickest paces the one that needs least memory, and the most even one."""
    layers, pipeline = training.network.num_hidden_layers, division.pipeline
    most = layers - pipeline + 1
    costs = [_line(most, _pace(training, division, devices, stage, layers)) for stage in range(pipeline)]
    sizes = [_line(most, _size(training, division, stage, layers)) for stage in range(pipeline)]
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


def _pace(training: Training, division: Division, devices: Devices, stage: int, layers: int) -> Callable[[int], float]:
    """Returns a stage's seconds a micro-batch by its number of layers."""

    def seconds(count: int) -> float:
        one = division.with_stages(_with_count(stage, count, layers, division.pipeline))
        found = seconds_of_stage(training, one, devices, stage)
        return found.forward + found.backward

    return seconds


def _size(training: Training, division: Division, stage: int, layers: int) -> Callable[[int], float]:
    """Returns a stage's bytes by its number of layers."""

    def size(count: int) -> float:
        one = division.with_stages(_with_count(stage, count, layers, division.pipeline))
        return stage_memory(training, one, stage).total

    return size


def _line(most: int, value: Callable[[int], float]) -> list[float]:
    """Returns the values of 1 to `most` layers from those of the two ends, between which they rise evenly."""
    low, high = value(1), value(most)
    step = (high - low) / (most - 1) if most > 1 else 0.0
    return [low + step * number for number in range(most)]


def _with_count(stage: int, count: int, layers: int, pipeline: int) -> StagePlan:
    """Returns a division in which a stage has `count` layers; the others share the rest."""
    rest = uniform_stages(layers - count, pipeline - 1).layers
    return StagePlan((*rest[:stage], count, *rest[stage:]))


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
