"""Estimates are what their definitions give."""

import itertools
import math
from statistics import mean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_evaluator import scores


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    verdicts = [True] * right + [False] * (samples - right)
    share = mean(any(draw) for draw in itertools.combinations(verdicts, k))
    assert scores.pass_at_k(samples, right, k) == pytest.approx(share)


def test_pass_at_k_of_many_samples_is_exact_and_more_than_there_are_is_refused() -> None:
    assert scores.pass_at_k(200, 3, 100) == pytest.approx(1 - math.comb(197, 100) / math.comb(200, 100))
    with pytest.raises(ValueError, match="no pass@3"):
        scores.pass_at_k(2, 1, 3)


def test_an_estimate_has_the_standard_error_of_its_mean_and_an_interval_around_it() -> None:
    values = [1.0] * 30 + [0.0] * 70
    found = scores.estimate(values, 2000, 1)
    assert found.value == pytest.approx(0.3)
    assert found.standard_error == pytest.approx(stdev(values) / 10)
    assert found.low is not None
    assert found.high is not None
    # The normal approximation is near with a hundred observations.
    assert found.low == pytest.approx(0.3 - 1.96 * found.standard_error, abs=0.02)
    assert found.high == pytest.approx(0.3 + 1.96 * found.standard_error, abs=0.02)
    assert found == scores.estimate(values, 2000, 1)


def test_the_majority_is_of_answers_that_are_the_same_and_the_first_of_equals() -> None:
    def key(text: str) -> str:
        return text.strip()

    assert scores.majority(["3", "4", " 4"], key) == 1
    assert scores.majority(["3", "4"], key) == 0
    assert scores.majority([None, "4", None], key) == 1
    assert scores.majority([None, None], key) is None


def test_two_models_are_compared_on_the_questions_that_both_have() -> None:
    ours = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0, "x": 1.0}
    theirs = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 0.0, "y": 1.0}
    found = scores.compare(ours, theirs, 500, 1)
    assert found is not None
    assert (found.items, found.ours, found.theirs, found.difference) == (4, 0.75, 0.25, 0.5)
    assert (found.better, found.worse, found.p_value) == (2, 0, 0.5)
    assert found.standard_error == pytest.approx(stdev([1, 0, 0, 1]) / 2)
    assert scores.compare({"a": 1.0}, {"b": 1.0}, 10, 1) is None


@given(st.integers(0, 25), st.integers(0, 25))
def test_the_sign_test_is_the_binomials_two_tails(better: int, worse: int) -> None:
    total, few = better + worse, min(better, worse)
    tail = sum(math.comb(total, k) for k in range(few + 1)) / 2**total
    assert scores.sign_test(better, worse) == pytest.approx(min(1.0, 2 * tail))
