"""Plain values through protobuf's Struct."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as values

from yuan_events import InputError
from yuan_jobs.messages import plain_of, struct_of

SCALARS = (
    values.none()
    | values.booleans()
    | values.text()
    | values.integers(-(2**53), 2**53)
    | values.floats(allow_nan=False, allow_infinity=False)
)
TREES = values.recursive(
    SCALARS, lambda inner: values.lists(inner) | values.dictionaries(values.text(), inner), max_leaves=20
)


@settings(max_examples=50, deadline=None)
@given(values.dictionaries(values.text(), TREES))
def test_plain_values_come_out_as_they_went_in(tree: dict[str, Any]) -> None:
    assert plain_of(struct_of(tree)) == tree


def test_whole_numbers_stay_whole() -> None:
    assert repr(plain_of(struct_of({"steps": 300, "lr": 0.5, "stages": [1, 3]}))["stages"]) == "[1, 3]"


@pytest.mark.parametrize("number", [2**53 + 1, -(2**60), float("nan"), float("inf")])
def test_a_number_that_would_not_arrive_as_it_is_is_refused_by_its_key(number: float) -> None:
    with pytest.raises(InputError, match=r"train\.seeds\[0\]"):
        struct_of({"train": {"seeds": [number]}})
