"""When a call is made again: only where that cannot do anything twice, and not before its server wants it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from yuan_rpc import RpcFailed, StatusCode

_PASSING = frozenset({StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED})


@dataclass(frozen=True)
class Retry:
    """How often, and how long in between.

    A text that nobody has read any of yet may be asked for again: nothing but the server's time is lost. Loading,
    unloading and aborting are never repeated; a stream is not once a piece of it has come.

    Attributes:
        attempts: in all; 1: never again.
        first_seconds: before the second attempt, where the server says nothing; twice as long before each next.
        most_seconds: between two attempts.
    """

    attempts: int = 4
    first_seconds: float = 0.2
    most_seconds: float = 10.0

    def waits(self) -> "Waits":
        """Returns the waits of one call."""
        return Waits(self)


class Waits:
    """How long one call waits before each further attempt."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._left = retry.attempts - 1
        self._seconds: Iterator[float] = (
            min(retry.most_seconds, retry.first_seconds * 2**number) for number in range(64)
        )

    def after(self, error: RpcFailed, left: float) -> float:
        """Returns how long to wait before another attempt.

        Args:
            error: how this one failed.
            left: seconds until the caller's deadline.

        Raises:
            RpcFailed: the error, if there is to be none.
        """
        self._left -= 1
        own = next(self._seconds, self._retry.most_seconds)
        # Many clients that were refused together do not come back together.
        seconds = (own if error.retry_after is None else error.retry_after) * random.uniform(1.0, 1.3)
        if error.code not in _PASSING or self._left < 0 or seconds > min(left, 2 * self._retry.most_seconds):
            raise error
        return seconds
