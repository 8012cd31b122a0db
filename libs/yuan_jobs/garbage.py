"""What a stack keeps no longer: old versions of artifacts, folders of old runs, what killed attempts left in the store.

An artifact that something needs is never garbage: one that is deployed, that a kept artifact was made from, or that a
job which has not succeeded takes. An artifact's row goes before its files, so that no reader finds half of one; what a
collection that is killed leaves behind, the next one finds.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_jobs.models import ArtifactInputRow, ArtifactRow, DeploymentRow, JobRow
from yuan_jobs.records import ArtifactRecord, artifact_record
from yuan_jobs.references import ArtifactKind
from yuan_jobs.registry import now
from yuan_jobs.states import ACTIVE, JobState
from yuan_manifest.schema import RetentionSection


@dataclass(frozen=True)
class RunFolder:
    """A job's run folder, and the bytes in it."""

    job_id: str
    size_bytes: int


@dataclass(frozen=True)
class Garbage:
    """What is not kept.

    Attributes:
        artifacts: versions that nothing needs.
        runs: folders of jobs that ended long ago: checkpoints, events, logs.
        leftovers: folders in the store that nobody published, by their path there.
    """

    artifacts: list[ArtifactRecord] = field(default_factory=list[ArtifactRecord])
    runs: list[RunFolder] = field(default_factory=list[RunFolder])
    leftovers: list[str] = field(default_factory=list[str])

    @property
    def size_bytes(self) -> int:
        """Bytes of artifacts and runs; those of leftovers are not counted."""
        return sum(one.size_bytes for one in (*self.artifacts, *self.runs))


def collect_garbage(
    store: ArtifactStore, home: Home, retention: RetentionSection, *, dry_run: bool, moment: datetime | None = None
) -> Garbage:
    """Finds what is not kept and, unless it is a dry run, removes it.

    Args:
        store: of artifacts and their registry.
        home: of run folders.
        retention: what is kept.
        dry_run: only find it.
        moment: now, for tests; UTC.

    Returns:
        What was found, and so removed.
    """
    until = (moment or now()) - timedelta(days=retention.run_days)
    database = store.registry.database
    with database.reading() if dry_run else database.writing() as session:
        artifacts = _unneeded(session, retention.artifact_versions)
        ended = _ended_before(session, until)
        if not dry_run:
            ids = [record.id for record in artifacts]
            session.execute(delete(ArtifactInputRow).where(ArtifactInputRow.artifact_id.in_(ids)))
            session.execute(delete(ArtifactRow).where(ArtifactRow.id.in_(ids)))
    runs = [RunFolder(job, _size_of(home.run_folder(job))) for job in ended if home.run_folder(job).is_dir()]
    removed = {record.path for record in artifacts}
    garbage = Garbage(artifacts, runs, [path for path in _unpublished(store) if path not in removed])
    if not dry_run:
        for path in (*removed, *garbage.leftovers):
            with suppress(OSError):  # it is found again as a leftover
                store.storage.remove(path)
        for run in runs:
            shutil.rmtree(home.run_folder(run.job_id), ignore_errors=True)
    return garbage


def _unneeded(session: Session, versions: int) -> list[ArtifactRecord]:
    """Returns the artifacts that nothing needs, newest versions of each name aside."""
    rows = list(session.scalars(select(ArtifactRow).order_by(ArtifactRow.version.desc())))
    seen: dict[tuple[str, str], int] = {}
    kept: set[int] = set()
    for row in rows:
        seen[row.kind, row.name] = seen.get((row.kind, row.name), 0) + 1
        if seen[row.kind, row.name] <= versions:
            kept.add(row.id)
    by_reference = {f"{row.kind}/{row.name}@{row.version}": row.id for row in rows}
    needed = {*_deployed(session), *_inputs_of_unfinished(session)}
    kept.update(by_reference[reference] for reference in needed if reference in by_reference)
    sources: dict[int, list[int]] = {}
    for made, source in session.execute(select(ArtifactInputRow.artifact_id, ArtifactInputRow.input_artifact_id)):
        sources.setdefault(made, []).append(source)
    waiting = list(kept)
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in kept:
                kept.add(source)
                waiting.append(source)
    return [artifact_record(row) for row in rows if row.id not in kept]


def _deployed(session: Session) -> Iterator[str]:
    for model, serving in session.execute(select(DeploymentRow.artifact, DeploymentRow.serving)):
        yield model
        yield from serving.get("adapters", {}).values()


def _inputs_of_unfinished(session: Session) -> Iterator[str]:
    query = select(JobRow.inputs).where(JobRow.state != JobState.SUCCEEDED)
    for inputs in session.scalars(query):
        yield from inputs.values()


def _ended_before(session: Session, until: datetime) -> list[str]:
    query = select(JobRow.id).where(JobRow.state.not_in(ACTIVE), JobRow.finished < until)
    return list(session.scalars(query.order_by(JobRow.finished)))


def _unpublished(store: ArtifactStore) -> list[str]:
    """Returns the attempts' folders in the store that were never published, of jobs that do not run."""
    with store.registry.database.reading() as session:
        published = set(session.scalars(select(ArtifactRow.path)))
        active = set(session.scalars(select(JobRow.id).where(JobRow.state.in_(ACTIVE))))
    return [path for path, job_id in _attempts(store) if path not in published and job_id not in active]


def _attempts(store: ArtifactStore) -> Iterable[tuple[str, str]]:
    """Yields `kind/name/job/attempt-N` and the job of every attempt that has a folder in the store."""
    children = store.storage.children
    for kind in ArtifactKind:
        for name in children(kind):
            for job_id in children(f"{kind}/{name}"):
                for attempt in children(f"{kind}/{name}/{job_id}"):
                    yield f"{kind}/{name}/{job_id}/{attempt}", job_id


def _size_of(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it went meanwhile
                total += (Path(path) / name).lstat().st_size
    return total
