"""The registry's tables. Changing one needs a migration in `migrations/versions`; a test compares the two.

Only types that SQLite and PostgreSQL share, so that the same tables serve a laptop and a host with many services.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from yuan_jobs.states import Desired, JobState

# Constraints have names of their own making, or a later migration could not drop them on SQLite.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite drops the zone of what it stores; this gives it back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Stores the moment in UTC; a moment without zone is refused."""
        del dialect
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment in the registry needs a time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Returns the moment with its zone."""
        del dialect
        return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """What the tables share."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(), dict[str, str]: JSON()}  # noqa: RUF012


ACTIVE_JOB = text("state IN ('WAITING', 'QUEUED', 'RUNNING') AND NOT force")
"""Which jobs must differ in their submission key."""


class JobRow(Base):
    """One job: what was asked for, and how it stands.

    Attributes:
        identity: sha256 over recipe and versions of inputs; empty until a worker has looked at the inputs.
        recipe: what is done (`Job.recipe`); of a pipeline, the recipes of its steps.
        manifest: the resolved manifest that a worker makes the job of; null for a pipeline.
        folder: where the manifest's relative paths begin; empty: where the worker was started.
        inputs: the versions of the inputs by name (`tokenizer/demo@3`, or a digest).
        topology: of the newest attempt, or of the next one.
        attempt: counts its runs and is the fencing token: every write of an attempt names it and is refused once
            another attempt has begun.
        desired: see `Desired`.
        lost_attempts: attempts since it was submitted or resumed whose worker was lost.
        submission_key: sha256 over recipe and current versions of its artifacts when it was submitted; null where
            it never counts as the same as another (a pipeline's step, a job of the foreground).
        parent_id: the pipeline that it is a step of, or the job that it is a part of, and `step` its name there.
        force: to be done anew whatever was done before.
        queue: the service whose workers take it; null for a pipeline and for a job of the foreground.
        lease_owner: the worker that holds it while it is RUNNING.
        lease_counter: moves while that worker lives.
        lease_seconds: how long it may stand still.
        artifact: what it published, or found already made: `kind/name@version`.
        priority: a waiting job of a higher one is taken first.
        scheduling: `SchedulingSection` as JSON's types; empty: all as usual.
        failures: how often it failed and was tried again since it was submitted or resumed.
        not_before: it is left on the queue until then; null: at once.
        notify: its end is to be told to the webhooks of `scheduling.notify`, and has not been noted for that yet.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "identity", "created"),
        Index(None, "state"),
        Index(None, "created"),
        Index(None, "parent_id", "created"),
        Index(None, "submission_key", "created"),
        Index(
            "uq_jobs_active_submission_key",
            "submission_key",
            unique=True,
            sqlite_where=ACTIVE_JOB,
            postgresql_where=ACTIVE_JOB,
        ),
    )

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(200))
    identity: Mapped[str] = mapped_column(String(64), default="")
    recipe: Mapped[dict[str, Any]]
    manifest: Mapped[dict[str, Any] | None]
    folder: Mapped[str] = mapped_column(default="")
    inputs: Mapped[dict[str, str]]
    topology: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(12), default=JobState.WAITING)
    desired: Mapped[str] = mapped_column(String(8), default=Desired.RUN)
    attempt: Mapped[int] = mapped_column(default=0)
    lost_attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    artifact: Mapped[str | None] = mapped_column(String(140))
    created: Mapped[datetime]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]
    submission_key: Mapped[str | None] = mapped_column(String(64))
    parent_id: Mapped[str | None] = mapped_column(String(80))
    step: Mapped[str] = mapped_column(String(100), default="")
    force: Mapped[bool] = mapped_column(default=False)
    queue: Mapped[str | None] = mapped_column(String(40))
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_counter: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_seconds: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    scheduling: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    not_before: Mapped[datetime | None]
    notify: Mapped[bool] = mapped_column(default=False, server_default=false(), index=True)


class ScheduleRow(Base):
    """A job that is submitted again and again, when its `scheduling.cron` says.

    Attributes:
        name: of the schedule: its job's.
        request: `{job, topology}`, as submitted.
        next_run: when; null: never again.
        last_run: when it was due last, and `last_job_id` what that came to.
        problem: why the last submit came to nothing; null: it did not.
    """

    __tablename__ = "schedules"
    __table_args__ = (Index(None, "next_run"),)

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    request: Mapped[dict[str, Any]]
    created: Mapped[datetime]
    next_run: Mapped[datetime | None]
    last_run: Mapped[datetime | None]
    last_job_id: Mapped[str | None] = mapped_column(String(80))
    problem: Mapped[str | None]


class NotificationRow(Base):
    """A webhook that is to be told how a job ended.

    Attributes:
        body: what it is told, as JSON's types.
        tries: how often that was tried.
        next_try: when to; null: it was told, or given up (`problem`).
        problem: how the last try failed.
    """

    __tablename__ = "notifications"
    __table_args__ = (Index(None, "next_try"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    url: Mapped[str]
    body: Mapped[dict[str, Any]]
    tries: Mapped[int] = mapped_column(default=0)
    next_try: Mapped[datetime | None]
    problem: Mapped[str | None]


class JobLabelRow(Base):
    """A label of a job, a name and a value of its user's own."""

    __tablename__ = "job_labels"
    __table_args__ = (Index(None, "name", "value"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(63))


class IdempotencyKeyRow(Base):
    """A key that a client chose for a submit, and the job that this came to.

    Attributes:
        key: the key.
        job_id: the job; one may have several keys, or none.
        request: sha256 over all that was asked for: another request with the same key is refused. Empty: not known.
        created: when it was used first.
    """

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    request: Mapped[str] = mapped_column(String(64), default="")
    created: Mapped[datetime]


class JobNeedRow(Base):
    """A job waits until another one has SUCCEEDED."""

    __tablename__ = "job_needs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    needs_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True, index=True)


class AttemptRow(Base):
    """One run of a job: by which worker, under which topology, and how it ended (null: it runs, or nobody knows)."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(String(120))
    host: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(40))
    topology: Mapped[dict[str, Any]]
    started: Mapped[datetime]
    ended: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(12))
    reason: Mapped[str | None]


class OutboxRow(Base):
    """A message that some worker of a queue is to get; sent means that the broker has taken it."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "sent"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    queue: Mapped[str] = mapped_column(String(40))
    created: Mapped[datetime]
    sent: Mapped[datetime | None]


class WorkerRow(Base):
    """A worker process; its counter moves while it lives."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(120), primary_key=True)
    service: Mapped[str] = mapped_column(String(40))
    host: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(40))
    counter: Mapped[int] = mapped_column(BigInteger, default=0)
    job_id: Mapped[str | None] = mapped_column(String(80))
    started: Mapped[datetime]


class LeaseRow(Base):
    """A task of the whole stack (`reconciler`) that one process at a time has; its counter moves while that lives."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str | None] = mapped_column(String(120))
    counter: Mapped[int] = mapped_column(BigInteger, default=0)
    version: Mapped[str] = mapped_column(String(40))


class SlotRow(Base):
    """A device that a job or a deployment has; devices are numbered over all nodes, from 0."""

    __tablename__ = "slots"

    device: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    job_id: Mapped[str | None] = mapped_column(String(80), index=True)
    deployment: Mapped[str | None] = mapped_column(String(100), index=True)


class DeploymentRow(Base):
    """A model that is to be served under a name: the desired state, and how the inference service stands to it.

    Attributes:
        users: jobs for whose time it is deployed; None: it stays.
    """

    __tablename__ = "deployments"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    artifact: Mapped[str] = mapped_column(String(140))
    serving: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str | None]
    job_id: Mapped[str | None] = mapped_column(String(80))
    updated: Mapped[datetime]
    users: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))


class ArtifactRow(Base):
    """One published version of an artifact; before this row exists nobody can see it."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("kind", "name", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    path: Mapped[str] = mapped_column(String(400), unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created: Mapped[datetime]


class ArtifactInputRow(Base):
    """Lineage: an artifact was made from another, which stood under a name in the manifest's `inputs`."""

    __tablename__ = "artifact_inputs"

    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"), primary_key=True)
    input_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    input_artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"), index=True)


OPEN_REQUEST = text("state IN ('FILED', 'ACCEPTED', 'IN_CYCLE')")
"""Which teaching requests must differ in what they ask for."""


class TeachingRequestRow(Base):
    """What somebody asks a model to learn: see `teaching.TeachingRequest`.

    Attributes:
        asked: the request itself (`NewRequest.plain`).
        digest: sha256 of that without its author.
        cycle: the job that gathered it; null: none.
    """

    __tablename__ = "teaching_requests"
    __table_args__ = (
        Index(None, "state"),
        Index(None, "filed"),
        Index(
            "uq_teaching_requests_open_digest",
            "digest",
            unique=True,
            sqlite_where=OPEN_REQUEST,
            postgresql_where=OPEN_REQUEST,
        ),
    )

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    state: Mapped[str] = mapped_column(String(12))
    revision: Mapped[int]
    asked: Mapped[dict[str, Any]]
    digest: Mapped[str] = mapped_column(String(64))
    filed_by: Mapped[str] = mapped_column(String(100))
    filed: Mapped[datetime]
    reviewer: Mapped[str] = mapped_column(String(100), default="")
    reviewed: Mapped[datetime | None]
    why: Mapped[str] = mapped_column(default="")
    cycle: Mapped[str | None] = mapped_column(String(80))
    gathered: Mapped[datetime | None]
    answer: Mapped[dict[str, Any]] = mapped_column(default=dict)
    answered: Mapped[datetime | None]
    history: Mapped[list[dict[str, Any]]] = mapped_column(JSON())
