"""What is to happen at a time of the wall clock, and a wall clock that goes back.

Leases know no wall clock (`leases.py`). A retry, a schedule and a second try of a webhook do: their times are written
down, and where the clock that wrote them was ahead (and was set right since, perhaps while nothing ran) they would lie
for as long as it was. Who moves the queue looks for such times when it begins, and whenever its clock has gone back.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select

from yuan_jobs.models import JobRow, NotificationRow, ScheduleRow
from yuan_jobs.notifications import delay_after
from yuan_jobs.registry import Registry, now
from yuan_jobs.requests import request_from_plain
from yuan_jobs.schedules import scheduling_of
from yuan_jobs.states import JobState
from yuan_manifest import SchedulingSection
from yuan_manifest.scheduling import next_time, retry_delay

_JUMP_SECONDS = 1.0


class WallClock:
    """Tells whether the wall clock has gone back, by a clock that does not."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        """Args: wall: seconds since 1970. steady: monotonic seconds."""
        self._wall = wall
        self._steady = steady
        self._ahead: float | None = None

    def went_back(self) -> bool:
        """Says whether it has since the last time that this was asked; the first time it may have."""
        ahead, before = self._wall() - self._steady(), self._ahead
        self._ahead = ahead
        return before is None or ahead < before - _JUMP_SECONDS


def forget_times_ahead(registry: Registry, moment: datetime | None = None) -> None:
    """Brings what is later than it could have been meant to where it would be if it were written down now.

    Args:
        registry: where the times are.
        moment: now, for tests.
    """
    at = moment or now()
    with registry.database.writing() as session:
        for job in session.scalars(select(JobRow).where(JobRow.state == JobState.QUEUED, JobRow.not_before > at)):
            latest = at + timedelta(seconds=retry_delay(SchedulingSection(**job.scheduling), max(1, job.failures)))
            job.not_before = min(job.not_before or latest, latest)
        for schedule in session.scalars(select(ScheduleRow).where(ScheduleRow.next_run > at)):
            request = request_from_plain(schedule.request["job"], schedule.request["topology"])
            following = next_time(scheduling_of(request), at)
            if following is not None and schedule.next_run is not None:
                schedule.next_run = min(schedule.next_run, following)
        for told in session.scalars(select(NotificationRow).where(NotificationRow.next_try > at)):
            latest = at + timedelta(seconds=delay_after(told.tries))
            told.next_try = min(told.next_try or latest, latest)
