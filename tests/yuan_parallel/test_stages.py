"""The division of layers into stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_parallel import StagePlan, uniform_stages


@given(st.integers(1, 60), st.data())
def test_a_uniform_division_differs_by_one_layer_at_most(layers: int, data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, layers))
    plan = uniform_stages(layers, stages)
    assert plan.total == layers
    assert max(plan.layers) - min(plan.layers) <= 1
    assert list(plan.layers) == sorted(plan.layers)


def test_every_layer_belongs_to_the_stage_whose_bounds_hold_it() -> None:
    plan = StagePlan((1, 3))
    assert plan.bounds == (0, 1, 4)
    assert [plan.stage_of(layer) for layer in range(4)] == [0, 1, 1, 1]
    assert str(plan) == "[1, 3]"
    with pytest.raises(ValueError, match="no layer 4 among 4"):
        plan.stage_of(4)


def test_empty_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="stage 1 has 0 layers"):
        StagePlan((2, 0))
    with pytest.raises(ValueError, match="2 layers cannot be divided into 3 stages"):
        uniform_stages(2, 3)
