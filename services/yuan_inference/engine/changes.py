"""What a request changes in the logits of its next token: bias, penalties, what may not come.

Kept from token to token, so that a token costs what is new and not the whole text.
"""

import numpy as np
import numpy.typing as npt

from yuan_inference.engine.request import Sampling

Logits = npt.NDArray[np.float32]


class TokenCounts:
    """How often each token has come, as arrays."""

    def __init__(self) -> None:
        """Begins with none."""
        self._places: dict[int, int] = {}
        self._ids: npt.NDArray[np.int64] = np.zeros(64, np.int64)
        self._times: Logits = np.zeros(64, np.float32)

    def add(self, token: int) -> None:
        """Counts a token."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._ids):
            self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
            self._times = np.concatenate((self._times, np.zeros_like(self._times)))
        self._ids[place] = token
        self._times[place] += 1

    def within(self, size: int) -> tuple[npt.NDArray[np.int64], Logits]:
        """Returns the tokens below `size` that have come, and how often."""
        count = len(self._places)
        ids, times = self._ids[:count], self._times[:count]
        if count and ids.max() >= size:
            return ids[ids < size], times[ids < size]
        return ids, times

    def copy(self) -> "TokenCounts":
        """Returns another that counts on from here."""
        other = TokenCounts()
        other._places, other._ids, other._times = dict(self._places), self._ids.copy(), self._times.copy()
        return other


class LogitChanges:
    """The changes of one continuation."""

    def __init__(self, sampling: Sampling) -> None:
        """Args: sampling: what is asked for."""
        self._sampling = sampling
        self._bias = np.array([token for token, _ in sampling.logit_bias], np.int64)
        self._added = np.array([value for _, value in sampling.logit_bias], np.float32)
        self._seen = TokenCounts() if sampling.repetition_penalty != 1.0 else None
        self._drawn = TokenCounts() if sampling.presence_penalty or sampling.frequency_penalty else None
        self._never_after: dict[int, list[int]] = {}
        for before, token in sampling.forbidden_pairs:
            self._never_after.setdefault(before, []).append(token)

    @classmethod
    def of(cls, sampling: Sampling, prompt: tuple[int, ...]) -> "LogitChanges | None":
        """Returns a request's changes behind its prompt; None where it asks for none."""
        changes = cls(sampling)
        if changes._seen is None and changes._drawn is None and not sampling.logit_bias and not changes._never_after:
            return None
        if changes._seen is not None:
            for token in prompt:
                changes._seen.add(token)
        return changes

    def copy(self) -> "LogitChanges":
        """Returns another that goes on from here."""
        other = LogitChanges(self._sampling)
        other._seen = None if self._seen is None else self._seen.copy()
        other._drawn = None if self._drawn is None else self._drawn.copy()
        return other

    def take(self, token: int) -> None:
        """Counts a token of the text."""
        for counts in (self._seen, self._drawn):
            if counts is not None:
                counts.add(token)

    def apply(self, logits_v: Logits, last: int) -> None:
        """Changes logits in place.

        Args:
            logits_v: of the next token.
            last: the token before it.
        """
        sampling = self._sampling
        if len(self._bias):
            logits_v[self._bias] += self._added
        if self._seen is not None:
            ids, _ = self._seen.within(len(logits_v))
            values, penalty = logits_v[ids], np.float32(sampling.repetition_penalty)
            logits_v[ids] = np.where(values > 0, values / penalty, values * penalty)
        if self._drawn is not None:
            ids, times = self._drawn.within(len(logits_v))
            logits_v[ids] -= np.float32(sampling.presence_penalty) + np.float32(sampling.frequency_penalty) * times
        if last in self._never_after:
            logits_v[self._never_after[last]] = -np.inf
