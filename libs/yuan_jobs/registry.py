"""The registry: which jobs there are, how they stand, which artifacts they published. The only truth about both.

Every write of a running job names its attempt and is refused once a later attempt has begun (fencing). Files are
not its business: see `artifacts.py`. What the queue adds is in modules of its own over the same tables: submitting
(`submission.py`), claiming (`claims.py`), steering (`control.py`), looking (`queries.py`). Schema: `models.py`.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from yuan_events import WorkFailed
from yuan_jobs.database import Database
from yuan_jobs.home import slug
from yuan_jobs.models import ArtifactInputRow, ArtifactRow, AttemptRow, JobNeedRow, JobRow, SlotRow
from yuan_jobs.outbox import enqueue
from yuan_jobs.records import (
    ArtifactRecord,
    Claim,
    JobRecord,
    NewArtifact,
    NewJob,
    WorkerIdentity,
    artifact_record,
    job_record,
)
from yuan_jobs.states import ACTIVE, AttemptOutcome, Desired, JobState
from yuan_jobs.worker_identity import this_process
from yuan_manifest import SchedulingSection
from yuan_manifest.scheduling import retry_delay

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_TRIES = 5


class StaleAttemptError(WorkFailed):
    """A write of an attempt that is no longer the job's current one; it had no effect."""


class Registry:
    """Reads and writes jobs and artifacts; every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str) -> "Registry":
        """Opens the registry at a SQLAlchemy URL; makes it, or brings its schema up to date, where needed.

        Raises:
            InputError: if it cannot be opened, is no registry, or is of a newer version of this program.
        """
        return cls(Database.open(url))

    def close(self) -> None:
        """Closes all connections."""
        self._database.close()

    @property
    def database(self) -> Database:
        """The database, for the modules that are a part of the registry."""
        return self._database

    # --- jobs ---------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> JobRecord | None:
        """Returns a job by its id."""
        with self._database.reading() as session:
            row = session.get(JobRow, job_id)
            return None if row is None else job_record(row, needs_of(session, job_id))

    def newest_job(self, identity: str) -> JobRecord | None:
        """Returns the job of an identity that was asked for last."""
        with self._database.reading() as session:
            row = session.scalar(_of_identity(identity).limit(1))
            return None if row is None else job_record(row)

    def finished_job(self, identity: str, *, besides: str) -> JobRecord | None:
        """Returns the newest job of an identity that SUCCEEDED, other than a given one."""
        query = _of_identity(identity).where(JobRow.state == JobState.SUCCEEDED, JobRow.id != besides)
        with self._database.reading() as session:
            row = session.scalar(query.limit(1))
            return None if row is None else job_record(row)

    def claim(self, new: NewJob, *, afresh: bool = False) -> Claim:
        """Starts an attempt in the foreground: of the newest job with this identity if that has not succeeded.

        Where there is none it makes a new job. Jobs on the queue, or at a worker, are left alone. The caller holds
        the home's lock, so a job of the foreground that is RUNNING here is one whose process died.

        Args:
            new: the job.
            afresh: make a new job in any case.
        """
        for remaining in reversed(range(_TRIES)):
            try:
                with self._database.writing() as session:
                    return self._claim(session, new, afresh=afresh)
            except IntegrityError:  # the random part of the id was taken: once in millions, within a millisecond
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    def _claim(self, session: Session, new: NewJob, *, afresh: bool) -> Claim:
        ours = or_(JobRow.queue.is_(None), JobRow.state.not_in(ACTIVE))
        row = None if afresh else session.scalar(_of_identity(new.identity).where(ours).limit(1))
        before = None
        if row is None or row.state == JobState.SUCCEEDED:
            row = JobRow(
                id=new_job_id(new.name, new.kind),
                kind=new.kind,
                name=new.name,
                identity=new.identity,
                recipe=dict(new.recipe),
                inputs=dict(new.inputs),
                attempt=0,
                created=now(),
            )
            session.add(row)
        else:
            before = job_record(row)
            row.queue, row.desired = None, Desired.RUN
        row.topology = dict(new.topology)
        begin_attempt(session, row, this_process("foreground"))
        return Claim(row.id, row.attempt, before)

    def finish(
        self,
        claim: Claim,
        state: JobState,
        *,
        reason: str | None = None,
        result: Mapping[str, Any] | None = None,
        effect: Callable[[], None] | None = None,
    ) -> None:
        """Ends an attempt that publishes nothing.

        Args:
            claim: the attempt.
            state: how the job ends.
            reason: why, where it is not done.
            result: what it reports.
            effect: what has to happen with it, and by no attempt but the current one; if it raises, nothing is written.

        Raises:
            StaleAttemptError: if it is not the job's current attempt; the effect has not happened then.
        """
        with self._database.writing() as session:
            finish_attempt(session, claim, state, reason=reason, result=result)
            if effect is not None:
                effect()

    def publish(self, claim: Claim, artifact: NewArtifact, result: Mapping[str, Any]) -> ArtifactRecord:
        """Makes an artifact's next version visible and its job SUCCEEDED, both or neither.

        Raises:
            StaleAttemptError: if it is not the job's current attempt; nothing is published then.
        """
        for remaining in reversed(range(_TRIES)):
            try:
                with self._database.writing() as session:
                    return self._publish(session, claim, artifact, result)
            except IntegrityError:  # another writer took the version first
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    def _publish(
        self, session: Session, claim: Claim, artifact: NewArtifact, result: Mapping[str, Any]
    ) -> ArtifactRecord:
        finish_attempt(session, claim, JobState.SUCCEEDED, result=result)
        newest = session.scalar(
            select(func.max(ArtifactRow.version)).where(
                ArtifactRow.kind == artifact.kind, ArtifactRow.name == artifact.name
            )
        )
        row = ArtifactRow(
            kind=artifact.kind,
            name=artifact.name,
            version=(newest or 0) + 1,
            path=artifact.path,
            digest=artifact.digest,
            size_bytes=artifact.size_bytes,
            job_id=claim.job_id,
            created=now(),
        )
        session.add(row)
        session.flush()
        session.add_all(
            ArtifactInputRow(artifact_id=row.id, input_name=name, input_artifact_id=artifact_id)
            for name, artifact_id in artifact.inputs.items()
        )
        reference = f"{row.kind}/{row.name}@{row.version}"
        session.execute(update(JobRow).where(JobRow.id == claim.job_id).values(artifact=reference))
        session.flush()
        return artifact_record(row)

    # --- artifacts ----------------------------------------------------------------------------------------------

    def artifact(self, kind: str, name: str, version: int | None = None) -> ArtifactRecord | None:
        """Returns one version of an artifact; the newest if none is given."""
        query = select(ArtifactRow).where(ArtifactRow.kind == kind, ArtifactRow.name == name)
        if version is not None:
            query = query.where(ArtifactRow.version == version)
        with self._database.reading() as session:
            row = session.scalar(query.order_by(ArtifactRow.version.desc()).limit(1))
            return None if row is None else artifact_record(row)

    def artifact_at(self, path: str) -> ArtifactRecord | None:
        """Returns the artifact whose folder in the store is this one."""
        with self._database.reading() as session:
            row = session.scalar(select(ArtifactRow).where(ArtifactRow.path == path).limit(1))
            return None if row is None else artifact_record(row)

    def artifacts(self, kind: str | None = None) -> list[ArtifactRecord]:
        """Returns all published artifacts (of a kind), by kind, name and version."""
        query = select(ArtifactRow).order_by(ArtifactRow.kind, ArtifactRow.name, ArtifactRow.version)
        if kind is not None:
            query = query.where(ArtifactRow.kind == kind)
        with self._database.reading() as session:
            return [artifact_record(row) for row in session.scalars(query)]

    def inputs_of(self, artifact_id: int) -> dict[str, ArtifactRecord]:
        """Returns the artifacts that an artifact was made from, by their names in the manifest's inputs."""
        query = (
            select(ArtifactInputRow.input_name, ArtifactRow)
            .join(ArtifactRow, ArtifactRow.id == ArtifactInputRow.input_artifact_id)
            .where(ArtifactInputRow.artifact_id == artifact_id)
            .order_by(ArtifactInputRow.input_name)
        )
        with self._database.reading() as session:
            return {name: artifact_record(row) for name, row in session.execute(query)}

    def made_from(self, artifact_id: int) -> list[ArtifactRecord]:
        """Returns the artifacts that were made from an artifact."""
        query = (
            select(ArtifactRow)
            .join(ArtifactInputRow, ArtifactInputRow.artifact_id == ArtifactRow.id)
            .where(ArtifactInputRow.input_artifact_id == artifact_id)
            .order_by(ArtifactRow.kind, ArtifactRow.name, ArtifactRow.version)
            .distinct()
        )
        with self._database.reading() as session:
            return [artifact_record(row) for row in session.scalars(query)]


def begin_attempt(session: Session, row: JobRow, worker: WorkerIdentity) -> None:
    """Makes a job RUNNING in its next attempt."""
    row.state = JobState.RUNNING
    row.attempt += 1
    row.started, row.finished, row.reason, row.result = now(), None, None, None
    session.flush()
    session.add(
        AttemptRow(
            job_id=row.id,
            number=row.attempt,
            worker=worker.id,
            host=worker.host,
            version=worker.version,
            topology=row.topology,
            started=row.started,
        )
    )
    session.flush()


def finish_attempt(
    session: Session,
    claim: Claim,
    state: JobState,
    *,
    reason: str | None = None,
    result: Mapping[str, Any] | None = None,
    artifact: str | None = None,
) -> None:
    """Ends a running attempt by compare-and-set, and its job with it; one that FAILED may be tried again first.

    Raises:
        StaleAttemptError: if it is not the job's current attempt.
    """
    if state == JobState.FAILED and _tries_again(session, claim, reason):
        return
    leave_attempt(
        session,
        claim,
        AttemptOutcome(state),
        reason,
        {
            "state": state,
            "result": None if result is None else dict(result),
            "artifact": artifact,
            "finished": now(),
        },
    )


def _tries_again(session: Session, claim: Claim, reason: str | None) -> bool:
    """Puts a failed job back on the queue, for later, where its manifest has retries left.

    Raises:
        StaleAttemptError: if it is not the job's current attempt.
    """
    row = session.get(JobRow, claim.job_id)
    if row is None or row.queue is None or row.desired == Desired.CANCEL:
        return False
    scheduling, failures = SchedulingSection(**row.scheduling), row.failures + 1
    if failures > scheduling.retries:
        return False
    delay = retry_delay(scheduling, failures)
    again = f"tried again after {delay:.0f} s ({failures} of {scheduling.retries})"
    told = f"failed: {reason or 'no reason given'}; {again}"
    values = {"state": JobState.QUEUED, "failures": failures, "not_before": now() + timedelta(seconds=delay)}
    leave_attempt(session, claim, AttemptOutcome.FAILED, told, values | {"desired": Desired.RUN})
    enqueue(session, session.get_one(JobRow, claim.job_id, populate_existing=True))
    return True


def leave_attempt(
    session: Session, claim: Claim, outcome: AttemptOutcome, reason: str | None, values: Mapping[str, Any]
) -> None:
    """Ends a running attempt by compare-and-set: sets the job's values, gives lease and devices back.

    Raises:
        StaleAttemptError: if it is not the job's current attempt.
    """
    ended = session.execute(
        update(JobRow)
        .where(JobRow.id == claim.job_id, JobRow.attempt == claim.attempt, JobRow.state == JobState.RUNNING)
        .values(reason=reason, lease_owner=None, **values)
        .returning(JobRow.id)
    ).all()
    if not ended:
        raise StaleAttemptError(
            f"job {claim.job_id}: attempt {claim.attempt} is not the current one any more; nothing of it is published"
        )
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.job_id == claim.job_id, AttemptRow.number == claim.attempt)
        .values(ended=now(), outcome=outcome, reason=reason)
    )
    session.execute(delete(SlotRow).where(SlotRow.job_id == claim.job_id))


def needs_of(session: Session, job_id: str) -> list[str]:
    """Returns the ids of the jobs that a job needs."""
    query = select(JobNeedRow.needs_id).where(JobNeedRow.job_id == job_id).order_by(JobNeedRow.needs_id)
    return list(session.scalars(query))


def _of_identity(identity: str) -> Select[JobRow]:
    return select(JobRow).where(JobRow.identity == identity).order_by(JobRow.created.desc(), JobRow.id.desc())


def new_job_id(name: str, kind: str) -> str:
    """Returns a job's name, fit for a path, `-`, milliseconds since 1970 (9 digits of base 32) and 5 random digits.

    Ids of one name sort by time.
    """
    number = (time.time_ns() // 1_000_000 << 25) | secrets.randbits(25)
    return f"{slug(name, kind)}-" + "".join(_DIGITS[number >> shift & 31] for shift in range(65, -1, -5))


def now() -> datetime:
    """Returns this moment, in UTC."""
    return datetime.now(UTC)
