"""Numbers from verdicts: means with their errors, pass@k, votes, and whether two models differ.

Everything is by question: an item's share of right samples is one observation.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over questions.

    Attributes:
        value: the mean.
        standard_error: of it; None for a single question.
        low: of the 95 % bootstrap interval; None where none was computed.
        high: of it.
        items: questions.
    """

    value: float
    standard_error: float | None
    low: float | None
    high: float | None
    items: int


def estimate(values: Sequence[float], resamples: int, seed: int) -> Estimate:
    """Returns the mean of per-question values with its standard error and a percentile bootstrap interval."""
    array = np.asarray(values, float)
    if not len(array):
        return Estimate(math.nan, None, None, None, 0)
    mean = float(array.mean())
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else None
    if not resamples or len(array) < 2:
        return Estimate(mean, error, None, None, len(array))
    low, high = np.quantile(_resampled(array, resamples, seed), (0.025, 0.975))
    return Estimate(mean, error, float(low), float(high), len(array))


def _resampled(values: Floats, resamples: int, seed: int) -> Floats:
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for index in range(resamples):
        means[index] = values[generator.integers(0, len(values), len(values))].mean()
    return means


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Returns the unbiased estimate of pass@k (Chen et al., 2021): 1 - C(n-c, k) / C(n, k).

    Args:
        samples: n, drawn for one problem.
        right: c, of them.
        k: at most n.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"no pass@{k} of {right} right ones among {samples}")
    if samples - right < k:
        return 1.0
    product = 1.0
    for index in range(samples - right + 1, samples + 1):
        product *= 1.0 - k / index
    return 1.0 - product


def ks(samples: int) -> list[int]:
    """Returns the k that a report has for so many samples."""
    return [k for k in (1, 2, 5, 10, 20, 50, 100, 200) if k <= samples]


def majority(values: Sequence[str | None], key: Callable[[str], str]) -> int | None:
    """Returns the index of the first sample whose answer most samples share; None where none has an answer.

    Of answers with equally many votes the one that came first wins.
    """
    keys = [None if value is None else key(value) for value in values]
    votes = Counter(name for name in keys if name is not None)
    if not votes:
        return None
    most = max(votes.values())
    return next(index for index, name in enumerate(keys) if name is not None and votes[name] == most)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same questions.

    Attributes:
        items: questions that both have.
        ours: mean of this model.
        theirs: of the other.
        difference: ours - theirs.
        standard_error: of the difference, paired.
        low: of its 95 % bootstrap interval.
        high: of it.
        better: questions that this model alone has right (or more often).
        worse: that the other has.
        p_value: exact sign test (McNemar): how likely so uneven a split is by chance.
    """

    items: int
    ours: float
    theirs: float
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    better: int
    worse: int
    p_value: float


def compare(ours: Mapping[str, float], theirs: Mapping[str, float], resamples: int, seed: int) -> Comparison | None:
    """Compares two models question by question; None where they share none."""
    names = sorted(ours.keys() & theirs.keys())
    if not names:
        return None
    one, other = (np.array([values[name] for name in names]) for values in (ours, theirs))
    difference = estimate((one - other).tolist(), resamples, seed)
    better, worse = int((one > other).sum()), int((one < other).sum())
    return Comparison(
        len(names),
        float(one.mean()),
        float(other.mean()),
        difference.value,
        difference.standard_error,
        difference.low,
        difference.high,
        better,
        worse,
        sign_test(better, worse),
    )


def sign_test(better: int, worse: int) -> float:
    """Returns the two-sided exact p-value of a split under a fair coin."""
    total, few = better + worse, min(better, worse)
    if not total:
        return 1.0
    terms = [
        math.exp(math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2))
        for k in range(few + 1)
    ]
    return min(1.0, 2 * math.fsum(terms))
