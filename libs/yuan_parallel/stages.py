"""The division of transformer layers into pipeline stages, as a value with its own parse, print and check."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class StagePlan:
    """How many transformer layers each pipeline stage holds, first stage first.

    The embedding belongs to the first stage; the final norm and the logits belong to the last.

    Attributes:
        layers: layers per stage, each at least 1.

    Raises:
        ValueError: if there is no stage or a stage has no layer.
    """

    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a pipeline needs at least one stage")
        for stage, count in enumerate(self.layers):
            if count < 1:
                raise ValueError(f"stage {stage} has {count} layers; each stage needs at least one")

    def __str__(self) -> str:
        return "[" + ", ".join(str(count) for count in self.layers) + "]"

    @property
    def bounds(self) -> tuple[int, ...]:
        """Cumulative layer bounds: stage i holds layers bounds[i] up to but not including bounds[i + 1]."""
        return (0, *accumulate(self.layers))

    @property
    def total(self) -> int:
        """Transformer layers in all."""
        return sum(self.layers)

    def stage_of(self, layer: int) -> int:
        """Returns the stage that holds a layer.

        Raises:
            ValueError: if there is no such layer.
        """
        for stage, end in enumerate(self.bounds[1:]):
            if 0 <= layer < end:
                return stage
        raise ValueError(f"there is no layer {layer} among {self.total}")


def uniform_stages(layers: int, stages: int) -> StagePlan:
    """Divides layers as evenly as whole numbers allow, the larger stages last.

    The first stages are the ones with most micro-batches in flight, so they get the smaller share.

    Raises:
        ValueError: if there are fewer layers than stages.
    """
    _check_enough(layers, stages)
    small, larger = divmod(layers, stages)
    return StagePlan(tuple(small + (stage >= stages - larger) for stage in range(stages)))


def balanced_stages(layer_cost: Sequence[float], first_extra: float, last_extra: float, stages: int) -> StagePlan:
    """Divides layers so that the slowest stage is as fast as it can be.

    An exact dynamic programme over contiguous divisions: a pipeline is paced by its slowest stage. Among equal
    divisions the one with the smallest sum of squares of stage costs wins (the evenest), then the one with fewer
    layers on the early stages, which keep more micro-batches in flight.

    Args:
        layer_cost: cost of each layer, in any unit.
        first_extra: cost that only the first stage has (embedding).
        last_extra: cost that only the last stage has (final norm, logits, loss).
        stages: pipeline stages.

    Raises:
        ValueError: if there are fewer layers than stages.
    """
    layers = len(layer_cost)
    _check_enough(layers, stages)
    prefix = [0.0, *accumulate(layer_cost)]

    def cost(stage: int, start: int, end: int) -> float:
        extra = (first_extra if stage == 0 else 0.0) + (last_extra if stage == stages - 1 else 0.0)
        return prefix[end] - prefix[start] + extra

    # best[end] = (slowest stage, sum of squares, layers per stage) over the stages so far
    best: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
    for stage in range(stages):
        reached: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for start, (slowest, squares, counts) in best.items():
            latest_end = layers - (stages - 1 - stage)
            ends = range(start + 1, latest_end + 1) if stage < stages - 1 else (layers,)
            for end in ends:
                stage_cost = cost(stage, start, end)
                found = (max(slowest, stage_cost), squares + stage_cost**2, (*counts, end - start))
                if end not in reached or found < reached[end]:
                    reached[end] = found
        best = reached
    return StagePlan(best[layers][2])


def _check_enough(layers: int, stages: int) -> None:
    if stages < 1 or layers < stages:
        raise ValueError(f"{layers} layers cannot be divided into {stages} stages")
