"""A registry that is away is asked until it is back, by who has something to tell it that took long to make."""

import time
from collections.abc import Callable
from typing import TypeVar

from yuan_jobs.database import RegistryAway

SECONDS_BETWEEN_TRIES = 0.2

_AnswerT = TypeVar("_AnswerT")


def never() -> bool:
    """Says that a try is enough."""
    return False


def insist(ask: Callable[[], _AnswerT], keep_on: Callable[[], bool]) -> _AnswerT:
    """Returns what the registry answers.

    Args:
        ask: one transaction; done twice it must do no more than once, since a server that goes away may have done it.
        keep_on: asked after each try that failed.

    Raises:
        RegistryAway: if it is away still and nobody wants to go on.
    """
    while True:
        try:
            return ask()
        except RegistryAway:
            if not keep_on():
                raise
            time.sleep(SECONDS_BETWEEN_TRIES)
