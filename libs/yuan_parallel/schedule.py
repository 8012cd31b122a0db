"""The order in which a pipeline stage works through a step's micro-batches, as typed instructions.

One forward, one backward (1F1B): stage i of p takes p - i - 1 micro-batches forward ahead of the first that it takes
back, then one of each in turn, and so never holds the activations of more than p - i. The simulator and the picture are
made from it, and it is the order that DeepSpeed's engine keeps. No devices are needed to look at it.
"""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instruction:
    """One thing that a stage does."""


@dataclass(frozen=True, slots=True)
class MicroBatchInstruction(Instruction):
    """One thing that a stage does with a micro-batch, which is numbered from 0 within the step and replica."""

    micro_batch: int


class Forward(MicroBatchInstruction):
    """Computes the stage's layers."""

    __slots__ = ()


class Backward(MicroBatchInstruction):
    """Computes the stage's gradients, and again what was not kept."""

    __slots__ = ()


class SendActivation(MicroBatchInstruction):
    """Hands its output to the next stage."""

    __slots__ = ()


class ReceiveActivation(MicroBatchInstruction):
    """Waits for its input from the stage before."""

    __slots__ = ()


class SendGradient(MicroBatchInstruction):
    """Hands its input's gradient to the stage before."""

    __slots__ = ()


class ReceiveGradient(MicroBatchInstruction):
    """Waits for its output's gradient from the next stage."""

    __slots__ = ()


class ReduceGradients(Instruction):
    """Sums gradients over the replicas, and the tied embedding's over its two stages."""

    __slots__ = ()


class StepOptimizer(Instruction):
    """Changes the weights."""

    __slots__ = ()


def micro_batches_in_flight(stage: int, stages: int, micro_batches: int) -> int:
    """Returns of how many micro-batches a stage holds activations at most."""
    return min(micro_batches, stages - stage)


def stage_schedule(stage: int, stages: int, micro_batches: int) -> Iterator[Instruction]:
    """Yields what a stage does in a step, in its order.

    Args:
        stage: its number, from 0.
        stages: of the pipeline.
        micro_batches: of the step, for one replica.

    Raises:
        ValueError: if there is no such stage or no micro-batch.
    """
    if not 0 <= stage < stages or micro_batches < 1:
        raise ValueError(f"stage {stage} of {stages}, {micro_batches} micro-batches: there is no such schedule")
    ahead = micro_batches_in_flight(stage, stages, micro_batches) - 1
    for number in range(ahead):
        yield from _forward(stage, stages, number)
    for number in range(micro_batches - ahead):
        yield from _forward(stage, stages, ahead + number)
        yield from _backward(stage, stages, number)
    for number in range(micro_batches - ahead, micro_batches):
        yield from _backward(stage, stages, number)
    yield ReduceGradients()
    yield StepOptimizer()


def _forward(stage: int, stages: int, number: int) -> Iterator[Instruction]:
    if stage > 0:
        yield ReceiveActivation(number)
    yield Forward(number)
    if stage < stages - 1:
        yield SendActivation(number)


def _backward(stage: int, stages: int, number: int) -> Iterator[Instruction]:
    if stage < stages - 1:
        yield ReceiveGradient(number)
    yield Backward(number)
    if stage > 0:
        yield SendGradient(number)
