"""The division of transformer layers into pipeline stages, as a value with its own parse, print and check."""

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


def _check_enough(layers: int, stages: int) -> None:
    if stages < 1 or layers < stages:
        raise ValueError(f"{layers} layers cannot be divided into {stages} stages")
