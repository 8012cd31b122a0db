"""The learning rate of a step."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_manifest.schema import Decay, OptimizerSection
from yuan_trainer.schedule import learning_rate


def optimizer(decay: Decay, warmup: int = 10, restart: int = 0) -> OptimizerSection:
    return OptimizerSection(lr=1.0, min_lr=0.1, warmup_steps=warmup, decay=decay, restart_steps=restart)


def test_warm_up_rises_evenly_to_the_peak() -> None:
    rates = [learning_rate(step, 100, optimizer(Decay.cosine)) for step in range(1, 11)]
    assert rates == pytest.approx([step / 10 for step in range(1, 11)])


@pytest.mark.parametrize(
    ("decay", "middle", "last"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1)]
)
def test_the_rate_falls_to_the_minimum_at_the_last_step(decay: str, middle: float, last: float) -> None:
    section = optimizer(Decay(decay))
    assert learning_rate(55, 100, section) == pytest.approx(middle)
    assert learning_rate(100, 100, section) == pytest.approx(last)


def test_without_warm_up_the_first_step_is_near_the_peak() -> None:
    assert learning_rate(1, 100, optimizer(Decay.cosine, warmup=0)) == pytest.approx(1.0, abs=1e-3)


@given(st.sampled_from(Decay), st.integers(1, 200), st.data())
def test_after_warm_up_the_rate_never_rises_and_never_leaves_its_bounds(
    decay: Decay, steps: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, steps))
    section = optimizer(decay, warmup)
    rates = [learning_rate(step, steps, section) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    fall = rates[max(0, warmup - 1) :]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(fall))
    assert all(rate >= 0.1 - 1e-12 for rate in rates[warmup:])


@given(st.sampled_from(Decay), st.integers(2, 50), st.integers(1, 200), st.data())
def test_a_restart_is_the_schedule_of_so_many_steps_from_its_beginning(
    decay: Decay, period: int, steps: int, data: st.DataObject
) -> None:
    section = optimizer(decay, data.draw(st.integers(0, period)), restart=period)
    step = data.draw(st.integers(1, steps))
    begun = (step - 1) // period * period
    length = min(period, steps - begun)  # the last one ends with the run
    once = optimizer(decay, section.warmup_steps)
    assert learning_rate(step, steps, section) == learning_rate(step - begun, length, once)
