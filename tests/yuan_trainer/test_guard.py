"""Steps that went wrong: left out, rolled back to other data, or the end of the run, the same after a resume."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_checkpoint.training_state import open_state, state_folder
from yuan_events import Message, WorkFailed
from yuan_manifest.schema import BadStep, GuardSection, OptimizerSection
from yuan_trainer.guard import Guard
from yuan_trainer.specification import Specification

from .conftest import Runner

LEAP = {"spike_factor": 0.9985, "spike_window": 3}
"""A guard that takes a loss that falls too slowly for a leap: of the fixture's run, that of step 17."""


def guarded(specification: Specification, **guard: object) -> Specification:
    return replace(specification, train=replace(specification.train, guard=GuardSection(**guard)))


def warnings(run: Runner) -> list[str]:
    return [event.text for event in run.sink.events if isinstance(event, Message) and event.level == "warning"]


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.inf), (2.0, math.nan)])
def test_numbers_that_are_not_finite_are_no_step(loss: float, norm: float) -> None:
    guard = Guard(GuardSection(nonfinite=BadStep.skip, most=2), steps=10)
    for _ in range(2):
        assert not guard.accept(loss, norm)
        assert guard.action() == BadStep.skip
    assert not guard.accept(loss, norm)
    assert guard.action() == BadStep.stop
    assert "2 steps before it were left out (train.guard.most)" in guard.wrong


def test_a_good_step_between_bad_ones_begins_the_count_anew() -> None:
    guard = Guard(GuardSection(nonfinite=BadStep.skip, most=1), steps=10)
    for loss in (math.nan, 2.0, math.nan):
        guard.accept(loss, 1.0)
        assert guard.action() == (BadStep.ignore if loss == 2.0 else BadStep.skip)


def test_a_loss_scale_that_is_being_found_is_nothing_wrong() -> None:
    guard = Guard(GuardSection(), steps=10, scales_loss=True)
    assert guard.accept(2.0, math.inf)
    assert not guard.accept(math.nan, math.inf)


def test_a_leap_is_told_by_the_mean_of_the_last_losses() -> None:
    guard = Guard(GuardSection(spike=BadStep.skip, spike_factor=2.0, spike_window=2), steps=10)
    assert all(guard.accept(loss, 1.0) for loss in (4.0, 2.0, 5.9, 5.0))
    assert not guard.accept(11.0, 1.0)
    assert guard.wrong == "its loss of 11.000 is 2.0 times the mean of the last 2"


@given(st.integers(2, 40), st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=6))
def test_data_that_was_rolled_back_over_is_never_met_again(steps: int, rollbacks: list[tuple[int, int]]) -> None:
    guard = Guard(GuardSection(nonfinite=BadStep.rollback, most=100), steps)
    left_out: set[int] = set()
    for state_step, further in rollbacks:
        state, step = min(state_step, steps) - 1, min(state_step - 1 + further, steps)
        if step <= state or steps - len(left_out) <= step - state:
            continue
        wrong = {guard.window(number) for number in range(state + 1, step + 1)}
        saved = Guard(GuardSection(), steps)
        saved.restore(guard.state())
        guard.go_back(step, state, saved.state())
        left_out |= wrong
        remaining = steps - len(left_out)
        if remaining == 0:
            with pytest.raises(WorkFailed):
                guard.window(1)
            return
        windows = [guard.window(number) for number in range(1, steps + 1)]
        assert not left_out & set(windows)
        assert len(set(windows[:remaining])) == remaining, "each is met once before any is met twice"
        assert windows[:remaining] == sorted(windows[:remaining])


@pytest.mark.slow
def test_a_run_whose_weights_burst_ends_with_step_samples_and_values(specification: Specification, run: Runner) -> None:
    burst = replace(specification, optimizer=OptimizerSection(lr=1e30))
    with pytest.raises(
        WorkFailed,
        match=r"step 2 \(samples 8 to 15\): its (loss is (nan|inf)|gradient is not finite); lower optimizer.lr",
    ):
        run(burst, stages=(1, 3))


@pytest.mark.slow
def test_a_step_that_is_left_out_changes_no_weight_and_the_run_resumes_bit_for_bit(
    specification: Specification, run: Runner
) -> None:
    specification = guarded(specification, spike=BadStep.skip, **LEAP)
    whole = run(specification, checkpoint_steps=9)
    assert list(whole) == list(range(1, 21))
    assert run.metric("skipped") == {17: 1.0}
    assert [text for text in warnings(run) if text.startswith("step 17 (samples 128 to 135): its loss of")]
    state = open_state(state_folder(specification.state_root, 18))
    assert state.metadata["optimizer_steps"] == 17
    assert run(specification, resume_from=state.folder) == {step: whole[step] for step in (19, 20)}


def test_a_rolled_back_step_goes_on_with_other_data_also_when_the_run_is_killed_right_after_it(
    specification: Specification, run: Runner
) -> None:
    specification = guarded(specification, spike=BadStep.rollback, **LEAP)
    whole = run(specification, checkpoint_steps=8)
    assert list(whole) == list(range(1, 21))
    assert [text for text in warnings(run) if text.startswith("step 17 (samples 128 to 135)") and "rolled back" in text]
    state = open_state(state_folder(specification.state_root, 16))
    assert state.metadata["guard"]["left_out"] == [[16, 16]]
    assert run(specification, resume_from=state.folder) == {step: whole[step] for step in range(17, 21)}
