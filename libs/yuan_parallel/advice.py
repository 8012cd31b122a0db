"""What is wrong with a plan, and the change that mends it: each change is predicted before it is named."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from yuan_manifest.schema import CostModel, Recompute
from yuan_parallel.planner import planned_stages
from yuan_parallel.prediction import Prediction
from yuan_parallel.stages import uniform_stages
from yuan_parallel.times import quick_seconds, stage_seconds
from yuan_parallel.training import GIBIBYTE, Devices, Division, Training

_UNEVEN = 1.1
"""The slowest stage over the mean one from which on stages are called uneven."""

_MUCH_TALK = 0.25
"""Share of a step's time in transfers from which on it is called bound by the network."""

_MUCH_WAITING = 0.25
"""Share of a pipeline's time in which it waits from which on that is said."""

_WORTH_IT = 0.99
"""A change is named if the step takes at most so much of its time."""


@dataclass(frozen=True)
class _Change:
    """What to write in the manifest, and what that comes to."""

    text: str
    training: Training
    division: Division


def warnings_of(plan: Prediction, planning: Devices) -> list[str]:
    """Returns one line for each thing that is wrong.

    Args:
        plan: as predicted.
        planning: the devices as the planner knows them (`given_devices`).
    """
    found: list[str] = []
    if not plan.fits:
        found.append(_does_not_fit(plan, planning))
    idle = plan.devices.count - plan.division.ranks
    if idle > 0:
        mend = "topology.parallel.data=auto, a multiple of it as train.global_batch_size, or fewer topology.nodes"
        found.append(f"{idle} of {plan.devices.count} devices have nothing to do; {mend}")
    if plan.cost_model == CostModel.exact:
        # The printed formulas know even stages only.
        found += _uneven(plan, planning)
    found += _waiting(plan, planning)
    found += _talking(plan, planning)
    return found


def _does_not_fit(plan: Prediction, planning: Devices) -> str:
    totals = [stage.total for stage in plan.memory]
    stage = totals.index(max(totals))
    memory = plan.devices.memory or 0.0
    problem = f"stage {stage} needs {_gib(max(totals))} GiB, a device has {_gib(memory)}"
    mended = next((one for one in _smaller(plan, planning) if one[1].fits), None)
    if mended is None:
        return f"does not fit: {problem}; no change to recomputation, micro-batch or division makes it: more devices do"
    return f"does not fit: {problem}; {mended[0]} makes it {_gib(mended[1].peak)} GiB"


def _smaller(plan: Prediction, planning: Devices) -> Iterator[tuple[str, Prediction]]:
    """Yields changes that need less memory, the ones that cost least time first."""
    training, division = plan.training, plan.division
    changes: list[_Change] = []
    if division.pipeline > 1:
        stages = planned_stages(training, division, planning)
        changes.append(_Change("topology.parallel.stages=auto", training, division.with_stages(stages)))
    elif division.data > 1 and division.tensor == 1:
        changes += [
            _Change(f"topology.parallel.zero_stage={zero}", training, replace(division, zero_stage=zero))
            for zero in range(division.zero_stage + 1, 4)
        ]
    elif division.data > 1 and division.zero_stage == 0:
        changes.append(_Change("topology.parallel.zero_stage=1", training, replace(division, zero_stage=1)))
    if training.recompute != Recompute.full or training.recompute_every > 1:
        full = replace(training, recompute=Recompute.full, recompute_every=1)
        text = "train.recompute.mode=full" + (
            "" if training.recompute_every == 1 else " train.recompute.every_layers=1"
        )
        changes += [_Change(text, full, division)]
        changes += [_Change(f"{text} {one.text}", full, one.division) for one in changes[:-1]]
    if training.micro_batch_size > 1:
        one_sample = replace(changes[-1].training if changes else training, micro_batch_size=1)
        text = f"train.micro_batch_size=1 {changes[-1].text}" if changes else "train.micro_batch_size=1"
        changes.append(_Change(text, one_sample, changes[-1].division if changes else division))
    smallest = changes[-1] if changes else _Change("", training, division)
    for pipeline in _larger_pipelines(plan):
        even = _repiped(smallest.division, pipeline, training.network.num_hidden_layers)
        parts = [f"topology.parallel.pipeline={pipeline} topology.parallel.stages=auto topology.parallel.data=auto"]
        if smallest.training is not training:
            parts.append("train.recompute.mode=full")
        stages = planned_stages(smallest.training, even, planning, quick=True)
        changes.append(_Change(" ".join(parts), smallest.training, even.with_stages(stages)))
    for change in changes:
        yield change.text, _changed(plan, change)


def _larger_pipelines(plan: Prediction) -> Iterator[int]:
    """Yields pipeline sizes above this one that the devices, the layers and the batch allow."""
    division, training = plan.division, plan.training
    layers, groups = training.network.num_hidden_layers, plan.devices.count // division.tensor
    for pipeline in range(division.pipeline + 1, min(layers, groups) + 1):
        replicas = groups // pipeline
        if training.global_batch_size % (replicas * training.micro_batch_size) == 0:
            yield pipeline


def _repiped(division: Division, pipeline: int, layers: int) -> Division:
    replicas = max(1, division.ranks // division.tensor // pipeline)
    zero_stage = 1 if pipeline > 1 else division.zero_stage
    return replace(division, stages=uniform_stages(layers, pipeline), data=replicas, zero_stage=zero_stage)


def _changed(plan: Prediction, change: _Change) -> Prediction:
    return replace(plan, training=change.training, division=change.division)


def _uneven(plan: Prediction, planning: Devices) -> Iterator[str]:
    training, division = plan.training, plan.division
    if division.pipeline == 1:
        return
    paces = [one.forward + one.backward for one in stage_seconds(training, division, plan.devices)]
    slowest, mean = max(paces), sum(paces) / len(paces)
    if slowest < _UNEVEN * mean:
        return
    stage = paces.index(slowest)
    problem = f"uneven: stage {stage} takes {slowest / mean - 1:.0%} longer than the mean stage"
    stages = planned_stages(training, division, planning, quick=True)
    mended = _changed(plan, _Change("", training, division.with_stages(stages)))
    if mended.seconds.total <= plan.seconds.total * _WORTH_IT and mended.peak <= max(
        plan.peak, plan.devices.memory or 0
    ):
        yield f"{problem}; topology.parallel.stages=auto ({stages}) {_gain(plan, mended)}"
        return
    better = _quickest(plan, list(_other_pipelines(plan, planning)))
    yield f"{problem}; {better or 'no other pipeline of these devices is quicker'}"


def _quickest(plan: Prediction, options: list[tuple[str, Prediction]]) -> str:
    """Returns the change that gives most tokens a second, and how many; empty text if none gives more."""
    if not options:
        return ""
    # Simulating all of them would take longer than a user waits.
    text, best = max(options, key=lambda one: _about_tokens_per_second(one[1]))
    gains = best.tokens_per_second * _WORTH_IT >= plan.tokens_per_second
    return f"{text} {_gain(plan, best)}" if gains else ""


def _about_tokens_per_second(plan: Prediction) -> float:
    if plan.cost_model == CostModel.paper:
        return plan.tokens_per_second
    return plan.training.step_tokens / quick_seconds(plan.training, plan.division, plan.devices)


def _other_pipelines(plan: Prediction, planning: Devices) -> Iterator[tuple[str, Prediction]]:
    """Yields pipelines of other lengths on as many ranks that fit."""
    training, division = plan.training, plan.division
    layers, groups = training.network.num_hidden_layers, division.pipeline * division.data
    for pipeline in range(1, min(layers, groups) + 1):
        replicas = groups // pipeline
        shares = groups % pipeline == 0 and training.global_batch_size % (replicas * training.micro_batch_size) == 0
        if not shares or pipeline == division.pipeline:
            continue
        even = _repiped(division, pipeline, layers)
        stages = planned_stages(training, even, planning, quick=True)
        text = f"topology.parallel.pipeline={pipeline} topology.parallel.stages=auto topology.parallel.data={replicas}"
        found = _changed(plan, _Change("", training, even.with_stages(stages)))
        if found.fits:
            yield text, found


def _waiting(plan: Prediction, planning: Devices) -> Iterator[str]:
    if plan.seconds.waiting < _MUCH_WAITING:
        return
    training, division = plan.training, plan.division
    micro_batches = division.micro_batches(training)
    problem = (
        f"bubble: stages wait {plan.seconds.waiting:.0%} of the time, with {micro_batches} micro-batches for "
        f"{division.pipeline} stages"
    )
    doubled = replace(training, global_batch_size=2 * training.global_batch_size)
    options = [
        (f"train.global_batch_size={doubled.global_batch_size}", _changed(plan, _Change("", doubled, division))),
        *_other_pipelines(plan, planning),
    ]
    yield f"{problem}; {_quickest(plan, options) or 'nothing that was tried is quicker'}"


def _talking(plan: Prediction, planning: Devices) -> Iterator[str]:
    seconds, training, division = plan.seconds, plan.training, plan.division
    parts = {
        "pipeline": seconds.pipeline,
        "tensor": seconds.tensor,
        "data": seconds.data,
        "optimizer": seconds.optimizer,
    }
    share = sum(parts.values()) / seconds.total
    if share < _MUCH_TALK:
        return
    most = max(parts, key=lambda name: parts[name])
    problem = f"network-bound: {share:.0%} of a step are transfers, most of them {most}"
    options: list[tuple[str, Prediction]] = []
    doubled = replace(training, global_batch_size=2 * training.global_batch_size)
    options.append(
        (f"train.global_batch_size={doubled.global_batch_size}", _changed(plan, _Change("", doubled, division)))
    )
    if division.zero_stage > 1:
        options.append(
            ("topology.parallel.zero_stage=1", _changed(plan, _Change("", training, replace(division, zero_stage=1))))
        )
    if division.tensor > 1:
        options += list(_less_tensor(plan, planning))
    options += list(_other_pipelines(plan, planning))
    better = _quickest(plan, [one for one in options if one[1].fits or not plan.fits])
    yield f"{problem}; {better or 'no other division of these devices is quicker: a faster network is'}"


def _less_tensor(plan: Prediction, planning: Devices) -> Iterator[tuple[str, Prediction]]:
    """Yields the same ranks with smaller tensor-parallel groups and a longer pipeline."""
    training, division = plan.training, plan.division
    layers = training.network.num_hidden_layers
    for tensor in range(1, division.tensor):
        pipeline = division.pipeline * division.tensor // tensor
        if division.tensor % tensor or pipeline > layers:
            continue
        sequence = division.sequence and tensor > 1
        even = replace(_repiped(division, pipeline, layers), tensor=tensor, data=division.data, sequence=sequence)
        stages = planned_stages(training, even, planning, quick=True)
        text = f"topology.parallel.tensor={tensor} topology.parallel.pipeline={pipeline} topology.parallel.stages=auto"
        yield text, _changed(plan, _Change("", training, even.with_stages(stages)))


def _gain(before: Prediction, after: Prediction) -> str:
    return f"makes {after.tokens_per_second:,.0f} tokens/s of {before.tokens_per_second:,.0f}"


def _gib(size: float) -> str:
    return f"{size / GIBIBYTE:.1f}"
