"""The learning rate of a step."""

import pytest

from yuan_manifest.schema import Decay, OptimizerSection
from yuan_trainer.schedule import learning_rate


def optimizer(decay: Decay, warmup: int = 10) -> OptimizerSection:
    return OptimizerSection(lr=1.0, min_lr=0.1, warmup_steps=warmup, decay=decay)


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
