"""One forward, one backward, and what it comes to in time."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_parallel.schedule import (
    Backward,
    Forward,
    MicroBatchInstruction,
    ReceiveActivation,
    ReceiveGradient,
    ReduceGradients,
    SendActivation,
    SendGradient,
    StepOptimizer,
    micro_batches_in_flight,
    stage_schedule,
)
from yuan_parallel.simulation import StageSeconds, simulate

STAGES, MICRO_BATCHES = st.integers(1, 6), st.integers(1, 12)


def test_the_first_of_three_stages_works_ahead_and_then_in_turn() -> None:
    work = [
        f"{type(one).__name__[0]}{one.micro_batch}"
        for one in stage_schedule(0, 3, 4)
        if isinstance(one, Forward | Backward)
    ]
    assert work == ["F0", "F1", "F2", "B0", "F3", "B1", "B2", "B3"]


@given(STAGES, MICRO_BATCHES)
def test_every_stage_takes_each_micro_batch_forward_and_back_once(stages: int, micro_batches: int) -> None:
    for stage in range(stages):
        instructions = list(stage_schedule(stage, stages, micro_batches))
        for kind in (Forward, Backward):
            assert [one.micro_batch for one in instructions if isinstance(one, kind)] == list(range(micro_batches))
        assert instructions[-2:] == [ReduceGradients(), StepOptimizer()]


@given(STAGES, MICRO_BATCHES)
def test_no_stage_holds_more_micro_batches_than_there_are_stages_from_it_on(stages: int, micro_batches: int) -> None:
    for stage in range(stages):
        held, most = 0, 0
        for one in stage_schedule(stage, stages, micro_batches):
            held += isinstance(one, Forward) - isinstance(one, Backward)
            most = max(most, held)
        assert most == micro_batches_in_flight(stage, stages, micro_batches) <= stages - stage


@given(STAGES, MICRO_BATCHES)
def test_what_one_stage_sends_the_next_receives_in_the_same_order(stages: int, micro_batches: int) -> None:
    schedules = [list(stage_schedule(stage, stages, micro_batches)) for stage in range(stages)]

    def numbers(stage: int, kind: type[MicroBatchInstruction]) -> list[int]:
        return [one.micro_batch for one in schedules[stage] if isinstance(one, kind)]

    for before, after in pairwise(range(stages)):
        assert numbers(before, SendActivation) == numbers(after, ReceiveActivation)
        assert numbers(after, SendGradient) == numbers(before, ReceiveGradient)


def test_a_schedule_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="stage 2 of 2, 1 micro-batches"):
        list(stage_schedule(2, 2, 1))


@given(STAGES, MICRO_BATCHES)
def test_the_bubble_of_even_stages_is_the_known_one(stages: int, micro_batches: int) -> None:
    step = simulate([StageSeconds(1.0, 2.0)] * stages, micro_batches)
    assert step.seconds == pytest.approx(3.0 * (micro_batches + stages - 1))
    assert step.bubble == pytest.approx((stages - 1) / (micro_batches + stages - 1))
    assert step.idle == pytest.approx([3.0 * (stages - 1)] * stages)


@given(
    st.lists(st.tuples(st.floats(0.1, 3), st.floats(0.1, 6), st.floats(0, 1)), min_size=1, max_size=5), MICRO_BATCHES
)
def test_a_step_is_never_shorter_than_its_slowest_stage_and_passes_never_overlap(
    stages: list[tuple[float, float, float]], micro_batches: int
) -> None:
    costs = [StageSeconds(*one) for one in stages]
    step = simulate(costs, micro_batches, spans=True)
    slowest = max(one.forward + one.backward for one in costs)
    assert step.seconds >= micro_batches * slowest * (1 - 1e-9)
    for stage in range(len(costs)):
        passes = sorted((span.start, span.end) for span in step.spans if span.stage == stage)
        assert len(passes) == 2 * micro_batches
        assert all(earlier[1] <= later[0] + 1e-9 for earlier, later in pairwise(passes))


def test_transfers_keep_their_sender_busy() -> None:
    without = simulate([StageSeconds(1.0, 1.0), StageSeconds(1.0, 1.0)], 1).seconds
    assert simulate([StageSeconds(1.0, 1.0, 0.5), StageSeconds(1.0, 1.0)], 1).seconds == without + 2 * 0.5
