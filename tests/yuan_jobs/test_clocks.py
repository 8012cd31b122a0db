"""A wall clock that goes back leaves nothing lying that was put off by the clock before."""

from datetime import UTC, datetime, timedelta

from queue_toys import job
from sqlalchemy import update

from yuan_jobs.clocks import WallClock, forget_times_ahead
from yuan_jobs.models import JobRow, NotificationRow
from yuan_jobs.notifications import notifications
from yuan_jobs.registry import Registry
from yuan_jobs.requests import JobRequest
from yuan_jobs.schedules import put_schedule, schedules
from yuan_jobs.submission import submit
from yuan_manifest import Topology, job_of_plain

MORNING = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


def request(**scheduling: object) -> JobRequest:
    tree = {
        "version": 1,
        "kind": "tokenizer",
        "name": "n",
        "inputs": {"text": ["a.txt"]},
        "outputs": {"tokenizer": "t"},
    }
    return JobRequest(job_of_plain({**tree, "scheduling": scheduling}), Topology())


def test_times_that_a_clock_ahead_wrote_are_brought_back_and_others_stay(registry: Registry) -> None:
    job_id = submit(registry, request(retries=3, retry_delay_seconds=100))[0].id
    put_schedule(registry, request(cron="0 9 * * *"), MORNING + timedelta(days=40))
    for ahead, expected in ((timedelta(days=40), 100), (timedelta(seconds=30), 30)):
        moment = MORNING + ahead
        with registry.database.writing() as session:
            session.execute(update(JobRow).values(not_before=moment, failures=1))
            session.add(NotificationRow(job_id=job_id, url="http://h/", body={}, tries=1, next_try=moment))
        forget_times_ahead(registry, MORNING)
        assert job(registry, job_id).not_before == MORNING + timedelta(seconds=expected)
        assert schedules(registry)[0].next_run == MORNING + timedelta(hours=1)
        next_try = notifications(registry, job_id)[-1].next_try
        assert next_try == MORNING + timedelta(seconds=min(5, ahead.total_seconds()))


def test_a_wall_clock_is_seen_going_back_and_not_for_going_forward_or_on() -> None:
    wall, steady = 1000.0, 50.0
    clock = WallClock(lambda: wall, lambda: steady)
    assert clock.went_back(), "before it was first asked it may have"
    wall, steady = wall + 3, steady + 3
    assert not clock.went_back()
    wall += 86_400
    assert not clock.went_back()
    wall -= 60
    assert clock.went_back()
    assert not clock.went_back()
