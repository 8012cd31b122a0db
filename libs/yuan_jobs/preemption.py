"""Lets a job that waits take the place of one of a lower priority: that one is asked to save its state and step aside.

It goes back to the queue, uncounted, and on from there when its turn comes again.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from yuan_jobs.claims import due
from yuan_jobs.models import JobRow, WorkerRow
from yuan_jobs.registry import Registry
from yuan_jobs.slots import TAKERS, devices_of, free_devices
from yuan_jobs.states import Desired, JobState
from yuan_manifest import SchedulingSection


def make_way(registry: Registry, capacity: int) -> None:
    """Asks running jobs to step aside where the first job of a queue waits for their worker or devices.

    Doing it twice changes nothing: while one that was asked has not yet gone, nobody else of its queue is asked.

    Args:
        registry: of the jobs.
        capacity: devices that the stack has.
    """
    with registry.database.reading() as session:
        victims = [job.id for first in _first_waiting(session) for job in _in_the_way(session, first, capacity)]
    if not victims:
        return
    with registry.database.writing() as session:
        for row in session.scalars(select(JobRow).where(JobRow.id.in_(victims), JobRow.state == JobState.RUNNING)):
            if row.desired == Desired.RUN:
                row.desired = Desired.YIELD


def _first_waiting(session: Session) -> list[JobRow]:
    """Returns of every queue the job whose turn it is, where some running job is of a lower priority."""
    lowest = select(JobRow.priority).where(JobRow.state == JobState.RUNNING, JobRow.lease_owner.is_not(None))
    running = list(session.scalars(lowest))
    if not running:
        return []
    waiting = select(JobRow.queue).where(JobRow.state == JobState.QUEUED, JobRow.priority > min(running)).distinct()
    heads = (session.scalar(due(queue).limit(1)) for queue in session.scalars(waiting) if queue)
    return [head for head in heads if head is not None]


def _in_the_way(session: Session, first: JobRow, capacity: int) -> Sequence[JobRow]:
    """Returns whom to ask, the lowest priority and the newest first; nobody where asking would not help."""
    wanted = devices_of(first, capacity)
    short_of_devices = wanted - free_devices(session, capacity) if wanted else 0
    idle = select(WorkerRow.id).where(WorkerRow.service == first.queue, WorkerRow.job_id.is_(None)).limit(1)
    short_of_workers = session.scalar(idle) is None
    if short_of_devices <= 0 and not short_of_workers:
        return []
    query = (
        select(JobRow)
        .where(JobRow.state == JobState.RUNNING, JobRow.lease_owner.is_not(None))
        .order_by(JobRow.priority, JobRow.created.desc(), JobRow.id)
    )
    running = [row for row in session.scalars(query) if row.queue == first.queue or row.kind in TAKERS]
    if any(row.desired == Desired.YIELD for row in running):
        return []
    lower = [r for r in running if r.priority < first.priority and SchedulingSection(**r.scheduling).preemptible]
    asked: list[JobRow] = []
    for row in lower:
        frees_worker, frees = row.queue == first.queue, devices_of(row, capacity)
        if (short_of_workers and frees_worker) or (short_of_devices > 0 and frees):
            asked.append(row)
            short_of_workers = short_of_workers and not frees_worker
            short_of_devices -= frees
    return asked if short_of_devices <= 0 and not short_of_workers else []
