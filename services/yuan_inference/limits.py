"""What tenants may ask for: requests and tokens a minute, requests at once.

Counts are this server's own, from its start on. A bucket fills steadily and may be overdrawn once: whoever asks while
there is anything left is answered whole, and waits until the debt is paid.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from yuan_rpc import Caller, ResourceExhausted

_MINUTE = 60.0
_SECONDS_UNTIL_ONE_ENDS = 1.0


class _Bucket:
    """So many a minute; full at first."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def take(self, amount: float, now: float) -> None:
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / _MINUTE) - amount
        self._at = now

    def seconds_until(self, amount: float, now: float) -> float:
        """Returns how long until so much is there; 0: it is."""
        self.take(0, now)
        return max(0.0, (amount - self._level) * _MINUTE / self.per_minute)


@dataclass
class _Account:
    requests: _Bucket | None
    tokens: _Bucket | None
    running: int = 0


class TenantLimits:
    """The accounts of all tenants; to be used in one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins with full buckets.

        Args:
            clock: seconds that only grow.
        """
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    @contextmanager
    def admit(self, caller: Caller) -> Generator[Callable[[int], None]]:
        """Admits a request for the time of a block, or refuses it.

        Args:
            caller: whose it is.

        Returns:
            A function that counts tokens, of prompt and answer.

        Raises:
            ResourceExhausted: with the time after which another one is admitted.
        """
        account = self._account(caller)
        self._check(caller, account)
        if account.requests is not None:
            account.requests.take(1, self._clock())
        account.running += 1

        def count(tokens: int) -> None:
            if account.tokens is not None:
                account.tokens.take(tokens, self._clock())

        try:
            yield count
        finally:
            account.running -= 1

    def _account(self, caller: Caller) -> _Account:
        account = self._accounts.get(caller.name)
        if account is None:
            now, limits = self._clock(), caller.limits
            requests = None if limits.requests_per_minute is None else _Bucket(limits.requests_per_minute, now)
            tokens = None if limits.tokens_per_minute is None else _Bucket(limits.tokens_per_minute, now)
            account = self._accounts[caller.name] = _Account(requests, tokens)
        return account

    def _check(self, caller: Caller, account: _Account) -> None:
        most = caller.limits.concurrent_requests
        if most is not None and account.running >= most:
            raise ResourceExhausted(
                f"{caller.name} has {account.running} requests running, which is all that it may (concurrent_requests)",
                _SECONDS_UNTIL_ONE_ENDS,
            )
        now = self._clock()
        for bucket, what in ((account.requests, "requests"), (account.tokens, "tokens")):
            if bucket is not None and (seconds := bucket.seconds_until(1, now)) > 0:
                raise ResourceExhausted(
                    f"{caller.name} has used its {bucket.per_minute} {what} a minute ({what}_per_minute)", seconds
                )
