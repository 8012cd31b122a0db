"""What a schedule comes to in time: a small discrete-event simulation of the stages of one pipeline.

A transfer keeps its sender busy and is there when it ends; a stage that needs it waits. Nothing else overlaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from yuan_parallel.schedule import (
    Backward,
    Forward,
    Instruction,
    MicroBatchInstruction,
    ReceiveActivation,
    ReceiveGradient,
    SendActivation,
    SendGradient,
    stage_schedule,
)


@dataclass(frozen=True)
class StageSeconds:
    """What one micro-batch takes in one stage. transfer: to hand a boundary's tensor on, in either direction."""

    forward: float
    backward: float
    transfer: float = 0.0


@dataclass(frozen=True)
class Span:
    """A forward or backward pass on the clock of the step, in seconds."""

    stage: int
    micro_batch: int
    backward: bool
    start: float
    end: float


@dataclass(frozen=True)
class Simulation:
    """A simulated step.

    Attributes:
        seconds: from the first instruction to the end of the last backward pass.
        busy: seconds that each stage computes.
        spans: all passes, where they were asked for.
    """

    seconds: float
    busy: tuple[float, ...]
    spans: tuple[Span, ...] = field(default=(), repr=False)

    @property
    def idle(self) -> tuple[float, ...]:
        """Seconds of the step that each stage does not compute."""
        return tuple(self.seconds - busy for busy in self.busy)

    @property
    def bubble(self) -> float:
        """The share of the step, over all stages, in which nothing is computed."""
        return 1.0 - sum(self.busy) / (len(self.busy) * self.seconds)


def simulate(stages: Sequence[StageSeconds], micro_batches: int, *, spans: bool = False) -> Simulation:
    """Returns how a step goes under 1F1B.

    Args:
        stages: what a micro-batch takes in each.
        micro_batches: of the step, for one replica.
        spans: keep every pass, for a picture.
    """
    orders = _orders(len(stages), micro_batches)
    run = _Run(stages, micro_batches, [] if spans else None)
    places = [0] * len(stages)
    moved = True
    while moved:
        moved = False
        for stage, order in enumerate(orders):
            place = run.advance(stage, order, places[stage])
            moved = moved or place > places[stage]
            places[stage] = place
    busy = tuple(micro_batches * (stage.forward + stage.backward) for stage in stages)
    return Simulation(max(run.clocks), busy, tuple(run.spans or ()))


class _Run:
    """The state of a simulation: each stage's clock, and when what was sent is there."""

    def __init__(self, stages: Sequence[StageSeconds], micro_batches: int, spans: list[Span] | None) -> None:
        self.stages = stages
        self.clocks = [0.0] * len(stages)
        self.spans = spans
        # by boundary and micro-batch; boundary i lies behind stage i
        self._activations: list[list[float | None]] = [[None] * micro_batches for _ in stages]
        self._gradients: list[list[float | None]] = [[None] * micro_batches for _ in stages]

    def advance(self, stage: int, order: Sequence[tuple[int, int]], place: int) -> int:
        """Lets a stage go on until it waits for another; returns its new place in its order."""
        clock, cost = self.clocks[stage], self.stages[stage]
        before = self.stages[stage - 1].transfer if stage else 0.0
        for place in range(place, len(order)):  # noqa: B020, PLR1704 - the place is what is counted
            action, number = order[place]
            if action in _COMPUTED:
                start = clock
                clock += cost.forward if action == _FORWARD else cost.backward
                if self.spans is not None:
                    self.spans.append(Span(stage, number, action == _BACKWARD, start, clock))
            elif action == _SEND_ACTIVATION:
                clock += cost.transfer
                self._activations[stage][number] = clock
            elif action == _SEND_GRADIENT:
                clock += before
                self._gradients[stage - 1][number] = clock
            else:
                there = (self._activations[stage - 1] if action == _RECEIVE_ACTIVATION else self._gradients[stage])[
                    number
                ]
                if there is None:
                    break
                clock = max(clock, there)
        else:
            place = len(order)
        self.clocks[stage] = clock
        return place


_FORWARD, _BACKWARD, _SEND_ACTIVATION, _SEND_GRADIENT, _RECEIVE_ACTIVATION, _RECEIVE_GRADIENT = range(6)
_COMPUTED = (_FORWARD, _BACKWARD)
_ACTIONS: dict[type[Instruction], int] = {
    Forward: _FORWARD,
    Backward: _BACKWARD,
    SendActivation: _SEND_ACTIVATION,
    SendGradient: _SEND_GRADIENT,
    ReceiveActivation: _RECEIVE_ACTIVATION,
    ReceiveGradient: _RECEIVE_GRADIENT,
}


@lru_cache(maxsize=16)
def _orders(stages: int, micro_batches: int) -> list[list[tuple[int, int]]]:
    """Returns what every stage does before gradients are reduced, as (action, micro-batch): a sweep simulates often."""
    schedules = (stage_schedule(stage, stages, micro_batches) for stage in range(stages))
    return [
        [(_ACTIONS[type(one)], one.micro_batch) for one in schedule if isinstance(one, MicroBatchInstruction)]
        for schedule in schedules
    ]
