"""Jobs and artifacts as values: what goes into the registry and what comes out of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from yuan_jobs.models import ArtifactRow, AttemptRow, DeploymentRow, JobRow, WorkerRow
from yuan_jobs.states import AttemptOutcome, DeploymentState, Desired, JobState
from yuan_manifest import SchedulingSection


@dataclass(frozen=True)
class NewJob:
    """What a job is before it has run: see `JobRow` for the fields."""

    kind: str
    name: str
    identity: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str]
    topology: Mapping[str, Any]


@dataclass(frozen=True)
class JobRecord:
    """A job as the registry has it: see `JobRow` for the fields; times are in UTC.

    `needs` are the ids of the jobs that must have succeeded before it.
    """

    id: str
    kind: str
    name: str
    identity: str
    recipe: Mapping[str, Any]
    manifest: Mapping[str, Any] | None
    folder: str
    inputs: Mapping[str, str]
    topology: Mapping[str, Any]
    state: JobState
    desired: Desired
    attempt: int
    lost_attempts: int
    reason: str | None
    result: Mapping[str, Any] | None
    artifact: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    parent_id: str | None
    step: str
    force: bool
    queue: str | None
    lease_owner: str | None
    lease_counter: int
    lease_seconds: int
    priority: int
    scheduling: SchedulingSection
    failures: int
    not_before: datetime | None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttemptRecord:
    """One run of a job; see `AttemptRow`."""

    job_id: str
    number: int
    worker: str
    host: str
    version: str
    topology: Mapping[str, Any]
    started: datetime
    ended: datetime | None
    outcome: AttemptOutcome | None
    reason: str | None


@dataclass(frozen=True)
class WorkerIdentity:
    """Who does the work of an attempt.

    Attributes:
        id: no two processes ever have the same.
        service: whose jobs it does.
        host: where it runs.
        version: of the installed Yuan Stack.
    """

    id: str
    service: str
    host: str
    version: str


@dataclass(frozen=True)
class WorkerRecord:
    """A worker as it last reported; `job_id` is what it is at, None if idle."""

    id: str
    service: str
    host: str
    version: str
    counter: int
    job_id: str | None
    started: datetime

    @property
    def identity(self) -> WorkerIdentity:
        """Who it is."""
        return WorkerIdentity(self.id, self.service, self.host, self.version)


@dataclass(frozen=True)
class DeploymentRecord:
    """What is to be served under a name, and how that stands. `users`: jobs that it is there for; None: it stays."""

    name: str
    artifact: str
    serving: Mapping[str, Any]
    state: DeploymentState
    reason: str | None
    job_id: str | None
    updated: datetime
    users: Sequence[str] | None = None


@dataclass(frozen=True)
class Claim:
    """The right to run a job: its id, and the attempt that every write of this run has to name.

    `before` is how the job stood: None if it has never run. `devices` are the stack's that it has, by their numbers.
    """

    job_id: str
    attempt: int
    before: JobRecord | None
    devices: tuple[int, ...] = ()


@dataclass(frozen=True)
class NewArtifact:
    """What is published: `path` is relative to the store; `inputs` are artifact row ids by input name."""

    kind: str
    name: str
    path: str
    digest: str
    size_bytes: int
    inputs: Mapping[str, int]


@dataclass(frozen=True)
class ArtifactRecord:
    """A published artifact as the registry has it; `id` is the row's."""

    id: int
    kind: str
    name: str
    version: int
    path: str
    digest: str
    size_bytes: int
    job_id: str
    created: datetime


def job_record(row: JobRow, needs: Iterable[str] = ()) -> JobRecord:
    """Returns a row of `jobs` as a value."""
    return JobRecord(
        id=row.id,
        kind=row.kind,
        name=row.name,
        identity=row.identity,
        recipe=row.recipe,
        manifest=row.manifest,
        folder=row.folder,
        inputs=row.inputs,
        topology=row.topology,
        state=JobState(row.state),
        desired=Desired(row.desired),
        attempt=row.attempt,
        lost_attempts=row.lost_attempts,
        reason=row.reason,
        result=row.result,
        artifact=row.artifact,
        created=row.created,
        started=row.started,
        finished=row.finished,
        parent_id=row.parent_id,
        step=row.step,
        force=row.force,
        queue=row.queue,
        lease_owner=row.lease_owner,
        lease_counter=row.lease_counter,
        lease_seconds=row.lease_seconds,
        priority=row.priority,
        scheduling=SchedulingSection(**row.scheduling),
        failures=row.failures,
        not_before=row.not_before,
        needs=tuple(needs),
    )


def attempt_record(row: AttemptRow) -> AttemptRecord:
    """Returns a row of `attempts` as a value."""
    return AttemptRecord(
        job_id=row.job_id,
        number=row.number,
        worker=row.worker,
        host=row.host,
        version=row.version,
        topology=row.topology,
        started=row.started,
        ended=row.ended,
        outcome=None if row.outcome is None else AttemptOutcome(row.outcome),
        reason=row.reason,
    )


def worker_record(row: WorkerRow) -> WorkerRecord:
    """Returns a row of `workers` as a value."""
    return WorkerRecord(row.id, row.service, row.host, row.version, row.counter, row.job_id, row.started)


def deployment_record(row: DeploymentRow) -> DeploymentRecord:
    """Returns a row of `deployments` as a value."""
    return DeploymentRecord(
        row.name, row.artifact, row.serving, DeploymentState(row.state), row.reason, row.job_id, row.updated, row.users
    )


def artifact_record(row: ArtifactRow) -> ArtifactRecord:
    """Returns a row of `artifacts` as a value."""
    return ArtifactRecord(
        id=row.id,
        kind=row.kind,
        name=row.name,
        version=row.version,
        path=row.path,
        digest=row.digest,
        size_bytes=row.size_bytes,
        job_id=row.job_id,
        created=row.created,
    )
