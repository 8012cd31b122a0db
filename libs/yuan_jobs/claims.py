"""A worker's hold on a job: taken by compare-and-set, kept by a moving counter, given back or lost.

Every function is one transaction, and every write names the attempt: what a worker does that has lost its job since
has no effect.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, or_, select, update
from sqlalchemy.orm import Session

from yuan_jobs.models import JobRow, WorkerRow
from yuan_jobs.outbox import enqueue
from yuan_jobs.records import Claim, JobRecord, WorkerIdentity, WorkerRecord, job_record, worker_record
from yuan_jobs.registry import Registry, StaleAttemptError, begin_attempt, finish_attempt, leave_attempt, now
from yuan_jobs.slots import devices_of, shortage, take_for_job
from yuan_jobs.states import AttemptOutcome, Desired, JobState

_LOOKED_AT = 100
"""Jobs at the head of a queue of which one may be taken though those before it wait for devices."""


def claim_next(
    registry: Registry, worker: WorkerIdentity, *, lease_seconds: int, capacity: int
) -> tuple[Claim, JobRecord] | None:
    """Takes the job from a worker's queue whose turn it is: of the highest priority, there the one that waits longest.

    A job whose devices are not free is passed over, by others that need none of them or are of its own priority:
    those of a lower one would keep it from them for ever.

    Args:
        registry: where the jobs are.
        worker: who will do it.
        lease_seconds: how long the worker's counter may stand still.
        capacity: devices that the stack has.

    Returns:
        As `claim_queued`.
    """
    with registry.database.writing() as session:
        held_for: int | None = None
        for row in session.scalars(due(worker.service).limit(_LOOKED_AT)):
            if held_for is not None and row.priority < held_for and devices_of(row, capacity):
                continue
            if (claimed := _claim(session, row, worker, lease_seconds, capacity)) is not None:
                return claimed
            held_for = row.priority if held_for is None else held_for
        return None


def due(service: str) -> Select[JobRow]:
    """Returns the query for the jobs on a service's queue whose time has come, in the order of their turns."""
    moment = now()
    return (
        select(JobRow)
        .where(JobRow.state == JobState.QUEUED, JobRow.queue == service, JobRow.desired != Desired.CANCEL)
        .where(or_(JobRow.not_before.is_(None), JobRow.not_before <= moment))
        .order_by(JobRow.priority.desc(), JobRow.created, JobRow.id)
    )


def claim_queued(
    registry: Registry, job_id: str, worker: WorkerIdentity, *, lease_seconds: int, capacity: int
) -> tuple[Claim, JobRecord] | None:
    """Takes a job from the queue, if it is there to be taken and its devices are free.

    Args:
        registry: where the job is.
        job_id: the job; may be none at all, since messages outlive what they speak of.
        worker: who will do it.
        lease_seconds: how long the worker's counter may stand still.
        capacity: devices that the stack has.

    Returns:
        The claim, and the job as it is now, RUNNING; or None: a double delivery, a cancelled job, a job that waits
        for devices.
    """
    with registry.database.writing() as session:
        row = session.get(JobRow, job_id)
        if row is None or row.state != JobState.QUEUED or row.queue != worker.service or row.desired == Desired.CANCEL:
            return None
        return _claim(session, row, worker, lease_seconds, capacity)


def _claim(
    session: Session, row: JobRow, worker: WorkerIdentity, lease_seconds: int, capacity: int
) -> tuple[Claim, JobRecord] | None:
    if (missing := shortage(session, row, capacity)) is not None:
        row.reason = missing
        return None
    before = job_record(row) if row.attempt else None
    row.desired, row.not_before = Desired.RUN, None
    row.lease_owner, row.lease_counter, row.lease_seconds = worker.id, 0, lease_seconds
    begin_attempt(session, row, worker)
    devices = take_for_job(session, row, capacity)
    session.execute(update(WorkerRow).where(WorkerRow.id == worker.id).values(job_id=row.id))
    return Claim(row.id, row.attempt, before, devices), job_record(row)


def renew(registry: Registry, claim: Claim, worker: WorkerIdentity) -> None:
    """Moves the counter of a job's lease, and the worker's.

    Raises:
        StaleAttemptError: if the worker does not hold the job any more.
    """
    with registry.database.writing() as session:
        moved = session.execute(
            update(JobRow)
            .where(
                JobRow.id == claim.job_id,
                JobRow.attempt == claim.attempt,
                JobRow.state == JobState.RUNNING,
                JobRow.lease_owner == worker.id,
            )
            .values(lease_counter=JobRow.lease_counter + 1)
            .returning(JobRow.id)
        ).all()
        if not moved:
            raise StaleAttemptError(f"job {claim.job_id}: attempt {claim.attempt} has lost its lease")
        session.execute(update(WorkerRow).where(WorkerRow.id == worker.id).values(counter=WorkerRow.counter + 1))


def desired_of(registry: Registry, claim: Claim) -> Desired | None:
    """Returns what is wanted of a running attempt; None if it is not the job's current one any more."""
    query = select(JobRow.desired).where(
        JobRow.id == claim.job_id, JobRow.attempt == claim.attempt, JobRow.state == JobState.RUNNING
    )
    with registry.database.reading() as session:
        desired = session.scalar(query)
        return None if desired is None else Desired(desired)


def describe(registry: Registry, claim: Claim, identity: str, inputs: Mapping[str, str]) -> None:
    """Writes down what the worker found: the versions of the inputs, and with them the job's identity.

    Raises:
        StaleAttemptError: if it is not the job's current attempt.
    """
    with registry.database.writing() as session:
        written = session.execute(
            update(JobRow)
            .where(JobRow.id == claim.job_id, JobRow.attempt == claim.attempt, JobRow.state == JobState.RUNNING)
            .values(identity=identity, inputs=dict(inputs))
            .returning(JobRow.id)
        ).all()
        if not written:
            raise StaleAttemptError(f"job {claim.job_id}: attempt {claim.attempt} is not the current one any more")


def succeed_as(registry: Registry, claim: Claim, done: JobRecord) -> None:
    """Ends an attempt as SUCCEEDED with what an identical job has made before.

    Raises:
        StaleAttemptError: if it is not the job's current attempt.
    """
    result: dict[str, Any] = dict(done.result or {}) | {"reused_job": done.id}
    with registry.database.writing() as session:
        finish_attempt(session, claim, JobState.SUCCEEDED, result=result, artifact=done.artifact)


def give_back(registry: Registry, claim: Claim, reason: str) -> None:
    """Puts a running job back on the queue: asked to, it has saved what it had.

    Raises:
        StaleAttemptError: if it is not the job's current attempt.
    """
    with registry.database.writing() as session:
        values = {"state": JobState.QUEUED, "desired": Desired.RUN}
        leave_attempt(session, claim, AttemptOutcome.YIELDED, reason, values)
        row = session.get_one(JobRow, claim.job_id, populate_existing=True)
        enqueue(session, row)


# --- workers -------------------------------------------------------------------------------------------------------


def register_worker(registry: Registry, worker: WorkerIdentity) -> None:
    """Makes a worker known."""
    with registry.database.writing() as session:
        session.add(
            WorkerRow(
                id=worker.id, service=worker.service, host=worker.host, version=worker.version, counter=0, started=now()
            )
        )


def report_idle(registry: Registry, worker: WorkerIdentity) -> None:
    """Moves a worker's counter and notes that it has no job; it becomes known again if it was taken for dead."""
    with registry.database.writing() as session:
        row = session.get(WorkerRow, worker.id)
        if row is None:
            row = WorkerRow(
                id=worker.id, service=worker.service, host=worker.host, version=worker.version, counter=0, started=now()
            )
            session.add(row)
        row.counter += 1
        row.job_id = None


def forget_worker(registry: Registry, worker_id: str) -> None:
    """Removes a worker that has ended."""
    with registry.database.writing() as session:
        if (row := session.get(WorkerRow, worker_id)) is not None:
            session.delete(row)


def workers(registry: Registry) -> list[WorkerRecord]:
    """Returns the workers that are known, by service and age."""
    with registry.database.reading() as session:
        rows = session.scalars(select(WorkerRow).order_by(WorkerRow.service, WorkerRow.started, WorkerRow.id))
        return [worker_record(row) for row in rows]
