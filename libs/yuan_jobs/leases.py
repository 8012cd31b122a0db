"""Leases that are judged by whoever watches: a counter that has not moved for a while means a holder that is gone.

The while is measured on the watcher's own monotonic clock, so that no clocks of two machines are compared.
"""

import time
from collections.abc import Callable, Hashable, Mapping

from sqlalchemy import update

from yuan_jobs.models import LeaseRow
from yuan_jobs.registry import Registry


class CounterWatch:
    """Tells which counters have stood still for how long; what is seen for the first time is taken for alive."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Hashable, tuple[int, float]] = {}

    def observe(self, counters: Mapping[Hashable, int]) -> None:
        """Takes a look at all the counters there are; those missing are forgotten."""
        moment = self._clock()
        before = self._seen
        self._seen = {
            key: before[key] if key in before and before[key][0] == value else (value, moment)
            for key, value in counters.items()
        }

    def still_for(self, key: Hashable) -> float:
        """Returns for how many seconds a counter has not moved; 0 for one that is not known."""
        return self._clock() - self._seen[key][1] if key in self._seen else 0.0


class SharedLease:
    """A task that one process of the stack at a time has; ask `held()` often, it renews what is held.

    Attributes:
        name: of the task.
        owner: of this process.
    """

    def __init__(
        self,
        registry: Registry,
        name: str,
        *,
        owner: str,
        version: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args: seconds: how long the counter may stand still. The others are what they are called."""
        self._registry = registry
        self.name = name
        self.owner = owner
        self._version = version
        self._seconds = seconds
        self._clock = clock
        self._watch = CounterWatch(clock)
        self._renewed: float | None = None

    def held(self) -> bool:
        """Says whether this process has the task now: takes it if it is free, or if its holder is gone."""
        if self._renewed is not None and self._clock() - self._renewed < self._seconds / 4:
            return True
        self._renewed = self._clock() if self._renew() or self._take() else None
        return self._renewed is not None

    def release(self) -> None:
        """Frees the task for others at once."""
        if self._renewed is None:
            return
        self._renewed = None
        with self._registry.database.writing() as session:
            session.execute(
                update(LeaseRow).where(LeaseRow.name == self.name, LeaseRow.owner == self.owner).values(owner=None)
            )

    def _renew(self) -> bool:
        if self._renewed is None:
            return False
        with self._registry.database.writing() as session:
            mine = update(LeaseRow).where(LeaseRow.name == self.name, LeaseRow.owner == self.owner)
            moved = session.execute(mine.values(counter=LeaseRow.counter + 1).returning(LeaseRow.name)).all()
            return bool(moved)

    def _take(self) -> bool:
        with self._registry.database.reading() as session:
            row = session.get(LeaseRow, self.name)
            seen = None if row is None else (row.owner, row.counter)
        if seen is not None and seen[0] is not None:
            self._watch.observe({seen[0]: seen[1]})
            if self._watch.still_for(seen[0]) < self._seconds:
                return False
        with self._registry.database.writing() as session:
            row = session.get(LeaseRow, self.name)
            if (None if row is None else (row.owner, row.counter)) != seen:
                return False  # another was faster, or the holder lives
            if row is None:
                row = LeaseRow(name=self.name, counter=0)
                session.add(row)
            row.owner, row.version = self.owner, self._version
            row.counter += 1
            return True
