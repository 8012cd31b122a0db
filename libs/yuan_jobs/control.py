"""What users do to jobs that were submitted: cancel, resume, ask to step aside."""

from collections.abc import Mapping

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from yuan_events import InputError
from yuan_jobs.models import JobRow
from yuan_jobs.outbox import enqueue
from yuan_jobs.records import JobRecord, job_record
from yuan_jobs.registry import Registry, needs_of, now
from yuan_jobs.states import NOT_BEGUN, RESUMABLE, Desired, JobState
from yuan_manifest import SERVICE_OF_KIND, Kind, SchedulingSection, Topology, check_run, job_of_plain
from yuan_manifest.schema import as_plain


class JobNotFound(InputError):
    """No job has that id."""


class WrongJobState(InputError):
    """What is asked of a job is not possible as it stands."""


def cancel(registry: Registry, job_id: str) -> JobRecord:
    """Asks a job to end. One that no worker has ends at once; a running one at its next safe point.

    A pipeline is cancelled with its steps; the cancelling of a step ends its pipeline.

    Raises:
        JobNotFound: if there is none of that id.
        WrongJobState: if it has ended otherwise than by being cancelled, or runs in the foreground.
    """
    with registry.database.writing() as session:
        row = _job(session, job_id)
        if JobState(row.state).ended:
            if row.state != JobState.CANCELLED:
                raise WrongJobState(f"job {job_id} has {row.state} already")
        elif row.queue is None and row.kind != Kind.pipeline:
            raise WrongJobState(f"job {job_id} runs in the foreground; stop it there with Ctrl-C")
        else:
            _cancel(session, row)
            for child in _children(session, job_id):
                _cancel(session, child)
        session.flush()
        return job_record(row, needs_of(session, job_id))


def resume(registry: Registry, job_id: str, topologies: Mapping[str, Topology] | None = None) -> JobRecord:
    """Puts a job that FAILED or was CANCELLED back on the queue: it goes on from its last checkpoint.

    A pipeline goes on with the steps that did not succeed; so does that of a step.

    Args:
        registry: where the job is.
        job_id: the job.
        topologies: of the new attempts, by job id (of a pipeline, those of its steps); what is not in it is as before.

    Raises:
        JobNotFound: if there is none of that id.
        WrongJobState: if it is not FAILED or CANCELLED, or the same job was submitted again meanwhile.
        ManifestError: if a job cannot run under its topology.
    """
    given = topologies or {}
    try:
        with registry.database.writing() as session:
            row = _job(session, job_id)
            if row.state not in RESUMABLE:
                raise WrongJobState(f"job {job_id} is {row.state}; only FAILED and CANCELLED jobs can be resumed")
            if row.parent_id is not None:
                parent = _job(session, row.parent_id)
                if parent.kind != Kind.pipeline:
                    raise WrongJobState(f"job {job_id} is a part of job {parent.id}; resume that one")
                _reset_pipeline(session, parent, given)
            elif row.kind == Kind.pipeline:
                _reset_pipeline(session, row, given)
            else:
                _reset(session, row, given)
                row.queue = _service_of(row)
                enqueue(session, row)
            session.flush()
            return job_record(row, needs_of(session, job_id))
    except IntegrityError:
        raise WrongJobState(
            f"job {job_id}: the same job was submitted again and is at work; see `yuan jobs`, or cancel that one"
        ) from None


def step_aside(registry: Registry, job_id: str) -> JobRecord:
    """Asks a running job to go back to the queue at its next safe point.

    Raises:
        JobNotFound: if there is none of that id.
        WrongJobState: if no worker has it.
    """
    with registry.database.writing() as session:
        row = _job(session, job_id)
        if row.state != JobState.RUNNING or row.lease_owner is None:
            raise WrongJobState(f"job {job_id} is {row.state} and at no worker")
        if row.desired == Desired.RUN:
            row.desired = Desired.YIELD
        session.flush()
        return job_record(row, needs_of(session, job_id))


def end_unbegun(session: Session, row: JobRow, reason: str) -> None:
    """Makes a job CANCELLED that no worker has."""
    row.state, row.desired = JobState.CANCELLED, Desired.CANCEL
    row.reason, row.finished = reason, now()


def _cancel(session: Session, row: JobRow) -> None:
    if row.state in NOT_BEGUN:
        end_unbegun(session, row, "cancelled by the user")
    elif row.state == JobState.RUNNING:
        row.desired = Desired.CANCEL


def _reset(session: Session, row: JobRow, topologies: Mapping[str, Topology]) -> None:
    """Makes a job WAITING as if it had not ended; its attempts go on counting."""
    if (topology := topologies.get(row.id)) is not None:
        if row.manifest is not None:
            check_run(job_of_plain(row.manifest, row.name), topology)
        row.topology = as_plain(topology)
    row.state, row.desired = JobState.WAITING, Desired.RUN
    row.reason, row.finished, row.lost_attempts = None, None, 0
    row.failures, row.not_before = 0, None
    row.notify = bool(SchedulingSection(**row.scheduling).notify)
    session.flush()


def _reset_pipeline(session: Session, parent: JobRow, topologies: Mapping[str, Topology]) -> None:
    """Makes a pipeline RUNNING again, and its unsuccessful steps WAITING; the reconciler queues them."""
    session.execute(
        update(JobRow)
        .where(JobRow.id == parent.id)
        .values(
            state=JobState.RUNNING,
            desired=Desired.RUN,
            reason=None,
            finished=None,
            result=None,
            notify=bool(SchedulingSection(**parent.scheduling).notify),
        )
    )
    for child in _children(session, parent.id):
        if child.state in RESUMABLE:
            child.queue = _service_of(child)
            _reset(session, child, topologies)


def _service_of(row: JobRow) -> str | None:
    """Returns whose workers take a job; one that was only ever run in the foreground left nothing to make it of."""
    if row.manifest is None:
        raise WrongJobState(f"job {row.id} was run in the foreground; run its manifest again to go on, or submit it")
    return SERVICE_OF_KIND[Kind(row.kind)]


def _job(session: Session, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id)
    if row is None:
        raise JobNotFound(f"job {job_id} does not exist; `yuan jobs` lists those that do")
    return row


def _children(session: Session, job_id: str) -> list[JobRow]:
    return list(session.scalars(select(JobRow).where(JobRow.parent_id == job_id).order_by(JobRow.created, JobRow.id)))
