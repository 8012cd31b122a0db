"""Jobs and artifacts as values: what goes into the registry and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from yuan_jobs.models import ArtifactRow, JobRow
from yuan_jobs.states import JobState


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
    """A job as the registry has it; times are in UTC."""

    id: str
    kind: str
    name: str
    identity: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, str]
    topology: Mapping[str, Any]
    state: JobState
    attempt: int
    reason: str | None
    result: Mapping[str, Any] | None
    created: datetime
    started: datetime | None
    finished: datetime | None


@dataclass(frozen=True)
class Claim:
    """The right to run a job: its id, and the attempt that every write of this run has to name.

    `before` is how the job stood: None for a new one.
    """

    job_id: str
    attempt: int
    before: JobRecord | None


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


def job_record(row: JobRow) -> JobRecord:
    """Returns a row of `jobs` as a value."""
    return JobRecord(
        id=row.id,
        kind=row.kind,
        name=row.name,
        identity=row.identity,
        recipe=row.recipe,
        inputs=row.inputs,
        topology=row.topology,
        state=JobState(row.state),
        attempt=row.attempt,
        reason=row.reason,
        result=row.result,
        created=row.created,
        started=row.started,
        finished=row.finished,
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
