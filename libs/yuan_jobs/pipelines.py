"""How jobs that need others go on: queued once their needs SUCCEEDED, cancelled once one of them cannot.

A step that takes what an earlier one did not make, since there was nothing to make, is skipped: it SUCCEEDED with that
reason, and made nothing either.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from yuan_jobs.control import end_unbegun
from yuan_jobs.models import JobNeedRow, JobRow
from yuan_jobs.outbox import enqueue
from yuan_jobs.planning import unable
from yuan_jobs.registry import Registry, now
from yuan_jobs.states import ACTIVE, NOT_BEGUN, NOTHING, Desired, JobState
from yuan_manifest import Job, Kind, job_of_plain


def advance_pipelines(registry: Registry) -> None:
    """Brings every running pipeline to where its steps have come. Doing it twice changes nothing."""
    with registry.database.reading() as session:
        running = select(JobRow.id).where(JobRow.kind == Kind.pipeline, JobRow.state == JobState.RUNNING)
        waiting = [parent for parent in session.scalars(running) if _has_work(session, parent)]
    for parent_id in waiting:
        with registry.database.writing() as session:
            parent = session.get(JobRow, parent_id)
            if parent is not None and parent.state == JobState.RUNNING:
                _advance(session, parent, _steps(session, parent_id))


def _has_work(session: Session, parent_id: str) -> bool:
    """Says whether advancing would change something, so that a quiet stack writes nothing."""
    steps = _steps(session, parent_id)
    if not any(step.state in ACTIVE for step in steps):
        return True
    if _broken(steps) is not None and any(step.state in NOT_BEGUN for step in steps):
        return True
    return bool(_ready(session, steps) or _skippable(session, steps))


def _advance(session: Session, parent: JobRow, steps: Sequence[JobRow]) -> None:
    broken = _broken(steps)
    cancelled = parent.desired == Desired.CANCEL
    if broken is not None or cancelled:
        reason = "cancelled by the user" if cancelled or broken is None else f"step {broken.step} {_ended(broken)}"
        for step in steps:
            if step.state in NOT_BEGUN:
                end_unbegun(session, step, reason)
    else:
        for step, reason in _skippable(session, steps):
            step.state, step.finished = JobState.SUCCEEDED, now()
            step.reason, step.result = f"skipped: {reason}", {NOTHING: reason}
        session.flush()
        for step in _ready(session, steps):
            enqueue(session, step)
    if any(step.state in ACTIVE for step in steps):
        return
    parent.finished = now()
    if all(step.state == JobState.SUCCEEDED for step in steps):
        parent.state = JobState.SUCCEEDED
        parent.result = {"steps": {step.step: step.artifact or (step.result or {}).get("path") for step in steps}}
        made_nothing = _made_nothing(steps)
        if made_nothing:
            first = next(iter(made_nothing))
            parent.reason = f"{first}: {made_nothing[first]}"
        return
    if cancelled or broken is None or broken.state == JobState.CANCELLED:
        parent.state = JobState.CANCELLED
    else:
        parent.state = JobState.FAILED
    parent.reason = f"step {broken.step}: {broken.reason}" if broken is not None else "cancelled by the user"


def _ready(session: Session, steps: Sequence[JobRow]) -> list[JobRow]:
    """Returns the WAITING steps all of whose needs SUCCEEDED."""
    done = {step.id for step in steps if step.state == JobState.SUCCEEDED}
    waiting = [step for step in steps if step.state == JobState.WAITING]
    needs: dict[str, set[str]] = {step.id: set() for step in waiting}
    query = select(JobNeedRow).where(JobNeedRow.job_id.in_(needs))
    for need in session.scalars(query):
        needs[need.job_id].add(need.needs_id)
    return [step for step in waiting if needs[step.id] <= done]


def _made_nothing(steps: Sequence[JobRow]) -> dict[str, str]:
    """Returns the steps that ended well with nothing made, and why; in their order."""
    ended = [step for step in steps if step.state == JobState.SUCCEEDED]
    return {step.step: str(reason) for step in ended if (reason := (step.result or {}).get(NOTHING)) is not None}


def _skippable(session: Session, steps: Sequence[JobRow]) -> list[tuple[JobRow, str]]:
    """Returns the steps that have not begun and cannot, since what they take was not made; and why it was not."""
    nothing = _made_nothing(steps)
    if not nothing:
        return []
    names = {step.id: step.step for step in steps}
    needs: dict[str, list[str]] = {step.id: [] for step in steps}
    for need in session.scalars(select(JobNeedRow).where(JobNeedRow.job_id.in_(needs))):
        needs[need.job_id].append(names[need.needs_id])
    parts = [_Part(s.step, tuple(needs[s.id]), job_of_plain(dict(s.manifest or {}), s.name)) for s in steps]
    why = unable(parts, nothing)
    return [(step, why[step.step]) for step in steps if step.step in why and step.state in NOT_BEGUN]


class _Part(NamedTuple):
    """A step as the checks of a pipeline see it."""

    name: str
    needs: tuple[str, ...]
    job: Job


def _broken(steps: Sequence[JobRow]) -> JobRow | None:
    """Returns the step for which a pipeline cannot go on: one that failed, before one that was cancelled."""
    for state in (JobState.FAILED, JobState.CANCELLED):
        for step in steps:
            if step.state == state:
                return step
    return None


def _ended(step: JobRow) -> str:
    return "failed" if step.state == JobState.FAILED else "was cancelled"


def _steps(session: Session, parent_id: str) -> list[JobRow]:
    return list(
        session.scalars(select(JobRow).where(JobRow.parent_id == parent_id).order_by(JobRow.created, JobRow.id))
    )
