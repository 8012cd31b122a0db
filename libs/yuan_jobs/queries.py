"""Looks at the registry that listings and watchers take; nothing is changed here."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from yuan_events import InputError, YuanError
from yuan_jobs.control import JobNotFound
from yuan_jobs.database import Database
from yuan_jobs.models import AttemptRow, JobLabelRow, JobNeedRow, JobRow, LeaseRow
from yuan_jobs.records import AttemptRecord, JobRecord, attempt_record, job_record
from yuan_jobs.registry import Registry
from yuan_jobs.sqlite import SQLITE
from yuan_jobs.states import JobState

ReadT = TypeVar("ReadT")

PAGE_SIZE = 100
LARGEST_PAGE = 1000


@dataclass(frozen=True)
class JobPage:
    """Some jobs of a listing, and the token that gives the next ones; empty: these were the last."""

    jobs: Sequence[JobRecord]
    next_token: str


def read_if_there(url: str, read: Callable[[Registry], ReadT], otherwise: ReadT) -> ReadT:
    """Returns what is read from a registry, which is neither made nor migrated; `otherwise` where none can be read.

    Args:
        url: of the registry.
        read: takes it, open.
        otherwise: what is returned where its file or its tables are missing, or it cannot be opened or read.
    """
    file = url.removeprefix(SQLITE)
    if file != url and not Path(file).exists():
        return otherwise
    with suppress(YuanError):
        registry = Registry(Database.open(url, migrate=False))
        try:
            return read(registry)
        finally:
            registry.close()
    return otherwise


def get_job(registry: Registry, job_id: str) -> JobRecord:
    """Returns a job.

    Raises:
        JobNotFound: if there is none of that id.
    """
    job = registry.job(job_id)
    if job is None:
        raise JobNotFound(f"job {job_id} does not exist; `yuan jobs` lists those that do")
    return job


def list_jobs(
    registry: Registry,
    *,
    states: Iterable[JobState] = (),
    kind: str = "",
    include_children: bool = False,
    labels: Mapping[str, str] | None = None,
    text: str = "",
    page_size: int = 0,
    page_token: str = "",
) -> JobPage:
    """Returns jobs, newest first.

    Args:
        registry: where they are.
        states: only these; none: all.
        kind: only this; empty: all.
        include_children: also the steps of pipelines.
        labels: only jobs that have all of these.
        text: only jobs whose id or name holds this, in large or small letters; empty: all.
        page_size: at most so many, and never more than LARGEST_PAGE; 0: PAGE_SIZE.
        page_token: of the page before; empty: the first page.

    Raises:
        InputError: if the page size is negative, or the token is none of ours.
    """
    if page_size < 0:
        raise InputError(f"page_size: {page_size} is negative")
    size = min(page_size or PAGE_SIZE, LARGEST_PAGE)
    query = select(JobRow).order_by(JobRow.created.desc(), JobRow.id.desc()).limit(size + 1)
    if wanted := list(states):
        query = query.where(JobRow.state.in_(wanted))
    if kind:
        query = query.where(JobRow.kind == kind)
    if not include_children:
        query = query.where(JobRow.parent_id.is_(None))
    for name, value in (labels or {}).items():
        labelled = select(JobLabelRow.job_id).where(JobLabelRow.name == name, JobLabelRow.value == value)
        query = query.where(JobRow.id.in_(labelled))
    if text:
        query = query.where(
            or_(JobRow.id.icontains(text, autoescape=True), JobRow.name.icontains(text, autoescape=True))
        )
    with registry.database.reading() as session:
        if page_token:
            last = session.get(JobRow, page_token)
            if last is None:
                raise InputError(f"page_token: {page_token!r} is not one that a listing gave")
            older = and_(JobRow.created == last.created, JobRow.id < last.id)
            query = query.where(or_(JobRow.created < last.created, older))
        rows = list(session.scalars(query))
        jobs = _records(session, rows[:size])
        return JobPage(jobs, jobs[-1].id if len(rows) > size else "")


def children(registry: Registry, job_id: str) -> list[JobRecord]:
    """Returns the steps of a pipeline, each after those that it needs; none for another job."""
    with registry.database.reading() as session:
        query = select(JobRow).where(JobRow.parent_id == job_id).order_by(JobRow.created, JobRow.id)
        return _records(session, list(session.scalars(query)))


def attempts(registry: Registry, job_id: str) -> list[AttemptRecord]:
    """Returns the runs of a job, the first one first."""
    query = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
    with registry.database.reading() as session:
        return [attempt_record(row) for row in session.scalars(query)]


def jobs_by_state(registry: Registry) -> Mapping[JobState, int]:
    """Returns how many jobs are in each state; steps count, pipelines do not."""
    query = select(JobRow.state, func.count()).where(JobRow.kind != "pipeline").group_by(JobRow.state)
    with registry.database.reading() as session:
        found = {JobState(state): count for state, count in session.execute(query)}
        return {state: found.get(state, 0) for state in JobState}


def queued_by_service(registry: Registry) -> Mapping[str, int]:
    """Returns how many jobs wait for a worker of each service; services without one are left out."""
    query = select(JobRow.queue, func.count()).where(JobRow.state == JobState.QUEUED, JobRow.queue.is_not(None))
    with registry.database.reading() as session:
        return {str(service): count for service, count in session.execute(query.group_by(JobRow.queue))}


def lease_holder(registry: Registry, name: str) -> tuple[str, str, int] | None:
    """Returns owner, version and counter of a task's lease; None if nobody has it."""
    with registry.database.reading() as session:
        row = session.get(LeaseRow, name)
        return None if row is None or row.owner is None else (row.owner, row.version, row.counter)


def _records(session: Session, rows: Sequence[JobRow]) -> list[JobRecord]:
    query = select(JobNeedRow.job_id, JobNeedRow.needs_id).where(JobNeedRow.job_id.in_([row.id for row in rows]))
    needs: dict[str, list[str]] = {}
    for job_id, needed in session.execute(query.order_by(JobNeedRow.needs_id)):
        needs.setdefault(job_id, []).append(needed)
    return [job_record(row, needs.get(row.id, ())) for row in rows]
