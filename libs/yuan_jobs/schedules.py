"""Jobs that recur: what is submitted when, by whichever reconciler is the active one.

A run whose time has passed while the stack was down is made up for once. What is the same as a job that is done, with
the same inputs, is not done again: a schedule is a submit, no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update

from yuan_events import InputError, YuanError, one_line
from yuan_jobs.models import ScheduleRow
from yuan_jobs.registry import Registry, now
from yuan_jobs.requests import JobRequest, Request, request_from_plain, request_to_plain
from yuan_jobs.submission import submit
from yuan_manifest import SchedulingSection
from yuan_manifest.scheduling import next_time


class NoSuchSchedule(InputError):
    """No schedule has that name.

    Attributes:
        name: the name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"schedule {name} does not exist; `yuan schedules` lists those that do")
        self.name = name


@dataclass(frozen=True)
class ScheduleRecord:
    """A schedule; see `ScheduleRow`."""

    name: str
    kind: str
    cron: str
    timezone: str
    created: datetime
    next_run: datetime | None
    last_run: datetime | None
    last_job_id: str | None
    problem: str | None


def scheduling_of(request: Request) -> SchedulingSection:
    """Returns when a request runs."""
    return request.job.scheduling if isinstance(request, JobRequest) else request.scheduling


def put_schedule(registry: Registry, request: Request, moment: datetime | None = None) -> ScheduleRecord:
    """Makes a schedule of a request, in place of one of its name.

    Args:
        registry: where.
        request: with `scheduling.cron`.
        moment: now, for tests.

    Raises:
        InputError: if it has no `cron`, or one that never comes.
    """
    begin = moment or now()
    scheduling = scheduling_of(request)
    if scheduling.cron is None:
        raise InputError(f"{request.name}: scheduling.cron: missing; when is it to run? as in '0 3 1 * *'")
    if (first := next_time(scheduling, begin)) is None:
        raise InputError(f"{request.name}: scheduling.cron: {scheduling.cron!r} never comes")
    job, topology = request_to_plain(request)
    with registry.database.writing() as session:
        row = session.get(ScheduleRow, request.name) or ScheduleRow(name=request.name, created=begin)
        row.request, row.next_run, row.problem = {"job": job, "topology": topology}, first, None
        session.add(row)
        session.flush()
        return _record(row)


def schedules(registry: Registry) -> list[ScheduleRecord]:
    """Returns all schedules, by name."""
    with registry.database.reading() as session:
        return [_record(row) for row in session.scalars(select(ScheduleRow).order_by(ScheduleRow.name))]


def remove_schedule(registry: Registry, name: str) -> ScheduleRecord:
    """Removes a schedule; jobs that it has submitted go on.

    Raises:
        NoSuchSchedule: if there is none of that name.
    """
    with registry.database.writing() as session:
        row = session.get(ScheduleRow, name)
        if row is None:
            raise NoSuchSchedule(name)
        session.delete(row)
        return _record(row)


def submit_due(
    registry: Registry, report: Callable[[str], None] = lambda line: None, moment: datetime | None = None
) -> None:
    """Submits what is due, once each; doing it again changes nothing.

    Args:
        registry: where.
        report: told of a schedule whose job could not be submitted.
        moment: now, for tests.
    """
    at = moment or now()
    query = select(ScheduleRow.name, ScheduleRow.request, ScheduleRow.next_run).where(ScheduleRow.next_run <= at)
    with registry.database.reading() as session:
        due = [(name, request, run) for name, request, run in session.execute(query) if run is not None]
    for name, plain, run in due:
        job_id, problem, following = None, None, None
        try:
            request = request_from_plain(plain["job"], plain["topology"])
            following = next_time(scheduling_of(request), at)
            # The key makes one of two reconcilers that are active for a moment.
            job_id = submit(registry, request, idempotency_key=f"schedule:{name[:100]}:{run.isoformat()}")[0].id
        except InputError as error:
            problem = one_line(error)
            report(f"schedule {name}: {problem}")
        except YuanError as error:  # the registry is away: it is due still
            report(one_line(error))
            return
        values = {"next_run": following, "last_run": run, "last_job_id": job_id, "problem": problem}
        with registry.database.writing() as session:
            session.execute(
                update(ScheduleRow).where(ScheduleRow.name == name, ScheduleRow.next_run == run).values(**values)
            )


def _record(row: ScheduleRow) -> ScheduleRecord:
    request = request_from_plain(row.request["job"], row.request["topology"])
    scheduling = scheduling_of(request)
    return ScheduleRecord(
        name=row.name,
        kind=str(request.kind),
        cron=scheduling.cron or "",
        timezone=scheduling.timezone,
        created=row.created,
        next_run=row.next_run,
        last_run=row.last_run,
        last_job_id=row.last_job_id,
        problem=row.problem,
    )
