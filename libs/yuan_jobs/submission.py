"""Puts jobs on the queue: the job, and the message that wakes a worker, in one transaction.

A submit of what is already waiting, running or done returns that job. Nothing is sent here: the reconciler takes
messages from the outbox, so that a broker that is down loses nothing.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from yuan_events import InputError
from yuan_jobs.identity import digest_of
from yuan_jobs.models import ArtifactRow, IdempotencyKeyRow, JobLabelRow, JobNeedRow, JobRow
from yuan_jobs.outbox import enqueue
from yuan_jobs.records import JobRecord, job_record
from yuan_jobs.references import Reference
from yuan_jobs.registry import Registry, needs_of, new_job_id, now
from yuan_jobs.requests import JobRequest, PipelineRequest, Request, manifest_of, recipe_of, request_to_plain
from yuan_jobs.states import ACTIVE, JobState
from yuan_jobs.wiring import artifact_inputs, has_relative_paths, makes_one_artifact_of_artifacts, output_of
from yuan_manifest import SERVICE_OF_KIND, Job, SchedulingSection
from yuan_manifest.scheduling import step_scheduling
from yuan_manifest.schema import as_plain

_TRIES = 5
LONGEST_KEY = 200
"""How many characters an idempotency key may have."""


class IdempotencyConflict(InputError):
    """The idempotency key was used before, for another request.

    Attributes:
        key: the key.
    """

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


def submit(
    registry: Registry, request: Request, *, force: bool = False, idempotency_key: str = ""
) -> tuple[JobRecord, bool]:
    """Puts a job, or a pipeline with a job for each of its steps, on the queue.

    Args:
        registry: where.
        request: what is to be done.
        force: do it anew whatever was done before; a job that waits or runs is not looked for.
        idempotency_key: two submits with the same key are one; empty: none.

    Returns:
        The job; and whether it was there before: waiting, at work, or done with all that it would do again.

    Raises:
        IdempotencyConflict: if the key belongs to another job.
        InputError: if a name in it cannot be one, or no service does a job's kind.
    """
    if len(idempotency_key) > LONGEST_KEY:
        raise InputError(f"idempotency key: longer than {LONGEST_KEY} characters")
    for job in _jobs(request):
        output_of(job)
        if SERVICE_OF_KIND[job.kind] is None:
            raise InputError(f"{job.name}: kind {job.kind} is not done by a service")
    for remaining in reversed(range(_TRIES)):
        try:
            with registry.database.writing() as session:
                row, reused = _submit(session, request, force=force, idempotency_key=idempotency_key)
                return job_record(row, needs_of(session, row.id)), reused
        except IntegrityError:  # another process submitted the same in this moment, or the id was taken
            if not remaining:
                raise
    raise AssertionError("unreachable")


def _submit(session: Session, request: Request, *, force: bool, idempotency_key: str) -> tuple[JobRow, bool]:
    asked = digest_of({"request": request_to_plain(request), "force": force})
    if idempotency_key and (known := session.get(IdempotencyKeyRow, idempotency_key)) is not None:
        if known.request not in ("", asked):
            raise IdempotencyConflict(
                f"idempotency key {idempotency_key}: used before for another request, job {known.job_id}; "
                "choose a new key",
                idempotency_key,
            )
        return session.get_one(JobRow, known.job_id), True
    row, reused = _find_or_add(session, request, force=force)
    if idempotency_key:
        session.add(IdempotencyKeyRow(key=idempotency_key, job_id=row.id, request=asked, created=now()))
        session.flush()
    return row, reused


def _find_or_add(session: Session, request: Request, *, force: bool) -> tuple[JobRow, bool]:
    recipe = recipe_of(request)
    # The same words in another folder speak of other files.
    folders = [one.folder if has_relative_paths(one.job) else "" for one in _job_requests(request)]
    key = digest_of({"recipe": recipe, "inputs": _current_versions(session, request), "folders": folders})
    if not force and (same := _same(session, request, key)) is not None:
        return same, True
    if isinstance(request, JobRequest):
        row = _add_job(session, request, request.job.scheduling, submission_key=key, force=force)
        enqueue(session, row)
    else:
        row = _add_pipeline(session, request, recipe, key, force=force)
    session.flush()
    return row, False


def _same(session: Session, request: Request, key: str) -> JobRow | None:
    """Returns the job that is what a request asks for."""
    same = select(JobRow).where(JobRow.submission_key == key).order_by(JobRow.created.desc(), JobRow.id.desc())
    if (active := session.scalar(same.where(JobRow.state.in_(ACTIVE)).limit(1))) is not None:
        return active
    # Whether text or folders have changed only a worker can see.
    if isinstance(request, PipelineRequest) or not makes_one_artifact_of_artifacts(request.job):
        return None
    done = session.scalar(same.limit(1))
    return done if done is not None and done.state == JobState.SUCCEEDED and done.artifact else None


def _add_job(session: Session, request: JobRequest, scheduling: SchedulingSection, **values: Any) -> JobRow:
    job = request.job
    row = JobRow(
        id=new_job_id(job.name, job.kind),
        kind=job.kind,
        name=job.name,
        recipe=job.recipe(),
        manifest=manifest_of(job),
        folder=request.folder,
        inputs={},
        topology=as_plain(request.topology),
        state=JobState.WAITING,
        queue=SERVICE_OF_KIND[job.kind],
        created=now(),
        priority=scheduling.priority,
        scheduling=as_plain(scheduling),
        notify=bool(scheduling.notify),
        **values,
    )
    session.add(row)
    session.flush()
    _add_labels(session, row.id, scheduling)
    return row


def _add_labels(session: Session, job_id: str, scheduling: SchedulingSection) -> None:
    session.add_all(JobLabelRow(job_id=job_id, name=name, value=value) for name, value in scheduling.labels.items())
    session.flush()


def _add_pipeline(
    session: Session,
    request: PipelineRequest,
    recipe: Mapping[str, Any],
    key: str,
    *,
    force: bool,
) -> JobRow:
    parent = JobRow(
        id=new_job_id(request.name, request.kind),
        kind=request.kind,
        name=request.name,
        recipe=dict(recipe),
        inputs={},
        topology={},
        state=JobState.RUNNING,
        created=now(),
        started=now(),
        submission_key=key,
        force=force,
        priority=request.scheduling.priority,
        scheduling=as_plain(request.scheduling),
        notify=bool(request.scheduling.notify),
    )
    session.add(parent)
    session.flush()
    _add_labels(session, parent.id, request.scheduling)
    ids: dict[str, str] = {}
    for step in request.steps:
        scheduling = step_scheduling(request.scheduling, step.request.job.scheduling)
        row = _add_job(session, step.request, scheduling, parent_id=parent.id, step=step.name, force=force)
        ids[step.name] = row.id
        session.add_all(JobNeedRow(job_id=row.id, needs_id=ids[need]) for need in dict.fromkeys(step.needs))
        if not step.needs:
            enqueue(session, row)
    return parent


def _current_versions(session: Session, request: Request) -> dict[str, str]:
    """Returns which version each artifact has now that is not made by the request itself; empty where there is none."""
    versions: dict[str, str] = {}
    made = {(output.kind, output.name) for output in map(output_of, _jobs(request))}
    for number, job in enumerate(_jobs(request)):
        for place, (kind, text) in artifact_inputs(job).items():
            reference = Reference.parse(text, kind)
            if reference.version is None and (reference.kind, reference.name) in made:
                continue
            version = reference.version or session.scalar(
                select(func.max(ArtifactRow.version)).where(
                    ArtifactRow.kind == reference.kind, ArtifactRow.name == reference.name
                )
            )
            versions[f"{number}.{place}"] = f"{reference.kind}/{reference.name}@{version or ''}"
    return versions


def _jobs(request: Request) -> list[Job]:
    return [one.job for one in _job_requests(request)]


def _job_requests(request: Request) -> list[JobRequest]:
    return [request] if isinstance(request, JobRequest) else [step.request for step in request.steps]
