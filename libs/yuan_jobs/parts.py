"""A job handed out in parts: each is a child job with a lease of its own, which any worker of the service takes.

The parent's work says which parts there are and ends; the parent waits without a worker. Once all parts SUCCEEDED it
is queued again, and its work finds what they made in its run folder. Parts have its manifest; which one they are says
`step`. A pipeline has children too, but those are jobs of their own (`pipelines.py`).
"""

from collections.abc import Sequence

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session, aliased

from yuan_jobs.control import end_unbegun
from yuan_jobs.models import JobNeedRow, JobRow
from yuan_jobs.outbox import enqueue
from yuan_jobs.records import Claim
from yuan_jobs.registry import Registry, leave_attempt, new_job_id, now
from yuan_jobs.states import ACTIVE, NOT_BEGUN, RESUMABLE, AttemptOutcome, Desired, JobState
from yuan_manifest import Kind


def hand_out(registry: Registry, claim: Claim, parts: Sequence[str]) -> None:
    """Ends an attempt that has divided its job, and puts the parts on the queue.

    A part of an earlier attempt that did not succeed is run on; one that did is done anew, or it would not be named.

    Args:
        registry: of the job.
        claim: the attempt.
        parts: their names.

    Raises:
        StaleAttemptError: if it is not the job's current attempt.
    """
    with registry.database.writing() as session:
        parent = session.get_one(JobRow, claim.job_id)
        cancelled = parent.desired == Desired.CANCEL
        reason = "cancelled by the user" if cancelled else _standing(0, len(parts))
        state = JobState.CANCELLED if cancelled else JobState.WAITING
        leave_attempt(session, claim, AttemptOutcome.YIELDED, reason, {"state": state})
        if cancelled:
            parent.finished = now()
            return
        session.refresh(parent)
        known = {row.step: row for row in _children(session, parent.id)}
        session.execute(
            delete(JobNeedRow).where(
                JobNeedRow.job_id == parent.id, JobNeedRow.needs_id.in_([row.id for row in known.values()])
            )
        )
        for name in parts:
            row = known.get(name) or _add(session, parent, name)
            session.add(JobNeedRow(job_id=parent.id, needs_id=row.id))
            if row.state not in ACTIVE or row.attempt == 0:
                row.desired, row.lost_attempts, row.failures, row.not_before = Desired.RUN, 0, 0, None
                row.reason, row.result, row.finished = None, None, None
                enqueue(session, row)


def advance_parts(registry: Registry) -> None:
    """Brings every job that waits for its parts to where they have come. Doing it twice changes nothing."""
    with registry.database.reading() as session:
        waiting = [parent for parent in _waiting(session) if _has_work(session, parent)]
        left = list(session.scalars(_left_behind()))
    for parent_id in [row.id for row in waiting]:
        with registry.database.writing() as session:
            parent = session.get(JobRow, parent_id)
            if parent is not None and parent.state == JobState.WAITING:
                _advance(session, parent, _needed(session, parent_id))
    if left:
        with registry.database.writing() as session:
            for row in session.scalars(_left_behind()):
                _end(session, row, "the job that it is a part of has ended")


def _add(session: Session, parent: JobRow, name: str) -> JobRow:
    row = JobRow(
        id=new_job_id(f"{parent.name}-{name}", parent.kind),
        kind=parent.kind,
        name=f"{parent.name} {name}",
        recipe=parent.recipe,
        manifest=parent.manifest,
        folder=parent.folder,
        inputs=parent.inputs,
        topology=parent.topology,
        state=JobState.WAITING,
        attempt=0,
        queue=parent.queue,
        created=now(),
        parent_id=parent.id,
        step=name,
        force=True,
        priority=parent.priority,
        scheduling=parent.scheduling,
    )
    session.add(row)
    session.flush()
    return row


def _advance(session: Session, parent: JobRow, parts: Sequence[JobRow]) -> None:
    broken = next(
        (part for state in (JobState.FAILED, JobState.CANCELLED) for part in parts if part.state == state), None
    )
    if broken is not None:
        how = "failed" if broken.state == JobState.FAILED else "was cancelled"
        for part in parts:
            _end(session, part, f"part {broken.step} {how}")
        if not any(part.state in ACTIVE for part in parts):
            parent.state = JobState(broken.state)
            parent.reason, parent.finished = f"part {broken.step}: {broken.reason}", now()
        return
    done = sum(part.state == JobState.SUCCEEDED for part in parts)
    parent.reason = _standing(done, len(parts))
    if done == len(parts):
        enqueue(session, parent)


def _has_work(session: Session, parent: JobRow) -> bool:
    """Says whether advancing would change something, so that a quiet stack writes nothing."""
    parts = _needed(session, parent.id)
    done = sum(part.state == JobState.SUCCEEDED for part in parts)
    return (
        any(part.state in RESUMABLE for part in parts)
        or parent.reason != _standing(done, len(parts))
        or (done == len(parts))
    )


def _standing(done: int, parts: int) -> str:
    return f"{done} of its {parts} parts are done"


def _end(session: Session, row: JobRow, reason: str) -> None:
    if row.state in NOT_BEGUN:
        end_unbegun(session, row, reason)
    elif row.state == JobState.RUNNING:
        row.desired = Desired.CANCEL


def _waiting(session: Session) -> list[JobRow]:
    """Returns the jobs that wait for parts."""
    child = aliased(JobRow)
    query = select(JobRow).where(
        JobRow.state == JobState.WAITING,
        JobRow.kind != Kind.pipeline,
        JobRow.attempt > 0,
        select(child.id).where(child.parent_id == JobRow.id).exists(),
    )
    return list(session.scalars(query))


def _needed(session: Session, parent_id: str) -> list[JobRow]:
    """Returns the parts that a job waits for, in the order of their names."""
    query = (
        select(JobRow)
        .join(JobNeedRow, JobNeedRow.needs_id == JobRow.id)
        .where(JobNeedRow.job_id == parent_id, JobRow.parent_id == parent_id)
        .order_by(JobRow.step)
    )
    return list(session.scalars(query))


def _children(session: Session, job_id: str) -> list[JobRow]:
    return list(session.scalars(select(JobRow).where(JobRow.parent_id == job_id)))


def _left_behind() -> Select[JobRow]:
    """Returns the query for parts that go on though nobody waits for them any more, and that have not been told."""
    parent = aliased(JobRow)
    return (
        select(JobRow)
        .join(parent, parent.id == JobRow.parent_id)
        .where(
            parent.kind != Kind.pipeline,
            parent.state.not_in(ACTIVE),
            JobRow.state.in_(ACTIVE),
            JobRow.desired != Desired.CANCEL,
        )
    )
