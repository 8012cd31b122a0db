"""Answers chosen by likelihood: of the given continuations the one that the model finds likeliest is its answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yuan_evaluator.asking import Reply
from yuan_evaluator.task import Choices


@dataclass(frozen=True)
class Judged:
    """What the likelihoods of one question come to.

    Attributes:
        logprobs: natural logarithms, one a choice.
        chosen: index of the likeliest.
        right: whether it is a right one (acc, MC1).
        right_by_length: the same with each divided by its length in characters (acc_norm).
        share: of the probability over all choices that the right ones have (MC2); None where only one is right.
        error: why it was not answered, which counts as wrong; empty where it was.
    """

    logprobs: tuple[float, ...]
    chosen: int | None
    right: bool
    right_by_length: bool
    share: float | None = None
    error: str = ""

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        found: dict[str, Any] = {
            "logprobs": [round(value, 6) for value in self.logprobs],
            "chosen": self.chosen,
            "right": self.right,
            "right_by_length": self.right_by_length,
        }
        extras = {"share": self.share, "error": self.error or None}
        return found | {name: value for name, value in extras.items() if value is not None}


def judge_replies(choices: Choices, replies: Sequence[Reply], all_replies: Sequence[Reply] = ()) -> Judged:
    """Compares what the model answered.

    Args:
        choices: what the answers belong to.
        replies: of `choices.continuations`.
        all_replies: of `choices.all_continuations`.
    """
    for reply in (*replies, *all_replies):
        if reply.logprob is None:
            return Judged((), None, False, False, 0.0 if all_replies else None, reply.error or "not answered")
    logprobs, all_logprobs = ([reply.logprob or 0.0 for reply in found] for found in (replies, all_replies))
    return judge(choices, logprobs, all_logprobs)


def judge(choices: Choices, logprobs: Sequence[float], all_logprobs: Sequence[float] = ()) -> Judged:
    """Compares likelihoods.

    Args:
        choices: what they belong to.
        logprobs: of `choices.continuations`.
        all_logprobs: of `choices.all_continuations`.
    """
    chosen = max(range(len(logprobs)), key=lambda index: logprobs[index])
    lengths = [max(1, len(text.strip())) for text in choices.continuations]
    by_length = max(range(len(logprobs)), key=lambda index: logprobs[index] / lengths[index])
    share = None
    if all_logprobs:
        most = max(all_logprobs)
        weights = [math.exp(value - most) for value in all_logprobs]
        share = math.fsum(weights[index] for index in choices.all_right) / math.fsum(weights)
    return Judged(tuple(logprobs), chosen, chosen in choices.right, by_length in choices.right, share)
