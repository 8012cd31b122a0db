"""The division of layers into stages."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_parallel import StagePlan, balanced_stages, uniform_stages


def slowest(plan: StagePlan, costs: list[float], first: float, last: float) -> float:
    bounds = plan.bounds
    stages = [sum(costs[start:end]) for start, end in pairwise(bounds)]
    stages[0] += first
    stages[-1] += last
    return max(stages)


@given(
    st.lists(st.integers(1, 9).map(float), min_size=1, max_size=8),
    st.integers(0, 20).map(float),
    st.integers(0, 20).map(float),
    st.data(),
)
def test_a_balanced_division_is_as_fast_as_any(
    costs: list[float], first: float, last: float, data: st.DataObject
) -> None:
    stages = data.draw(st.integers(1, len(costs)))
    found = balanced_stages(costs, first, last, stages)
    assert found.total == len(costs)
    assert len(found.layers) == stages
    every = [
        StagePlan(tuple(b - a for a, b in zip((0, *cuts), (*cuts, len(costs)), strict=True)))
        for cuts in combinations(range(1, len(costs)), stages - 1)
    ]
    assert slowest(found, costs, first, last) == min(slowest(plan, costs, first, last) for plan in every)


@given(st.integers(1, 60), st.data())
def test_a_uniform_division_differs_by_one_layer_at_most(layers: int, data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, layers))
    plan = uniform_stages(layers, stages)
    assert plan.total == layers
    assert max(plan.layers) - min(plan.layers) <= 1
    assert list(plan.layers) == sorted(plan.layers)


def test_a_costly_last_stage_gets_fewer_layers() -> None:
    assert balanced_stages([1.0] * 8, 0.0, 3.0, 2).layers == (5, 3)


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
