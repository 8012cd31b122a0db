"""What is to be served: a table of desired state, which the inference service reads when it starts.

A job may want a model served for its own time alone: such a deployment knows the jobs that use it, and goes with the
last of them.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from yuan_jobs.models import DeploymentRow, JobRow, SlotRow
from yuan_jobs.records import DeploymentRecord, deployment_record
from yuan_jobs.registry import Registry, now
from yuan_jobs.states import ACTIVE, DeploymentState


def deploy(
    registry: Registry,
    name: str,
    artifact: str,
    serving: Mapping[str, Any],
    job_id: str | None = None,
    *,
    users: Sequence[str] | None = None,
) -> DeploymentRecord:
    """Wants a model served under a name, in place of what was.

    Args:
        registry: where it is written down.
        name: that clients ask for it by.
        artifact: the model, `model/NAME@VERSION`.
        serving: the manifest's `serving` section, plain.
        job_id: the job that asked for it.
        users: jobs for whose time it is deployed (`begin_use`); None: it stays.
    """
    with registry.database.writing() as session:
        return _deploy(session, name, artifact, serving, job_id=job_id, users=users)


def _deploy(
    session: Session,
    name: str,
    artifact: str,
    serving: Mapping[str, Any],
    *,
    job_id: str | None,
    users: Sequence[str] | None,
) -> DeploymentRecord:
    row = session.get(DeploymentRow, name)
    if row is None:
        row = DeploymentRow(name=name)
        session.add(row)
    row.artifact, row.serving, row.job_id = artifact, dict(serving), job_id
    row.state, row.reason, row.updated = DeploymentState.LOADING, None, now()
    row.users = None if users is None else list(users)
    session.flush()
    return deployment_record(row)


def begin_use(
    registry: Registry,
    artifact: str,
    job_id: str,
    *,
    names: Sequence[str],
    serving: Mapping[str, Any],
    keep: bool,
    without: Collection[str] = (),
) -> tuple[DeploymentRecord, bool]:
    """Gives a job a deployment of a model: one that is there, or else a new one; returns it, and whether it is new.

    Args:
        registry: where it is written down.
        artifact: the model, `model/NAME@VERSION`.
        job_id: the job.
        names: for a new one; the first that is free.
        serving: of a new one, its name aside.
        keep: it stays after the job; otherwise, where it is there for jobs alone, it goes with the last (`end_use`).
        without: names of those that will not do.

    Raises:
        ValueError: if no name is free.
    """
    with registry.database.writing() as session:
        query = select(DeploymentRow).where(DeploymentRow.artifact == artifact).order_by(DeploymentRow.name)
        for row in session.scalars(query):
            if row.name in without:
                continue
            if row.users is not None:
                row.users = None if keep else [*(user for user in row.users if user != job_id), job_id]
            return deployment_record(row), False
        taken = set(session.scalars(select(DeploymentRow.name)))
        free = [name for name in names if name not in taken]
        if not free:
            raise ValueError(f"all of {', '.join(names)} are deployed")
        users = None if keep else [job_id]
        serving = {**serving, "name": free[0]}
        return _deploy(session, free[0], artifact, serving, job_id=job_id, users=users), True


def end_use(registry: Registry, name: str, job_id: str) -> bool:
    """Says that a job uses a deployment no more; returns whether it went with that.

    Jobs that are not active any more do not count: who was killed has not said that it ended.
    """
    with registry.database.writing() as session:
        row = session.get(DeploymentRow, name)
        if row is None or row.users is None or job_id not in row.users:
            return False
        active = select(JobRow.id).where(JobRow.id.in_(row.users), JobRow.id != job_id, JobRow.state.in_(ACTIVE))
        row.users = list(session.scalars(active))
        if row.users:
            return False
        session.execute(delete(SlotRow).where(SlotRow.deployment == name))
        session.delete(row)
        return True


def set_deployment_state(
    registry: Registry, name: str, artifact: str, state: DeploymentState, reason: str | None = None
) -> bool:
    """Says how the service stands to a deployment; returns False where it is of another model, or gone, by now."""
    with registry.database.writing() as session:
        row = session.get(DeploymentRow, name)
        if row is None or row.artifact != artifact:
            return False
        row.state, row.reason, row.updated = state, reason, now()
        return True


def remove_deployment(registry: Registry, name: str) -> bool:
    """Wants nothing served under a name any more; returns whether something was. Its devices are free."""
    with registry.database.writing() as session:
        session.execute(delete(SlotRow).where(SlotRow.deployment == name))
        query = delete(DeploymentRow).where(DeploymentRow.name == name).returning(DeploymentRow.name)
        return bool(session.execute(query).all())


def deployments(registry: Registry) -> list[DeploymentRecord]:
    """Returns all deployments, by name."""
    with registry.database.reading() as session:
        return [deployment_record(row) for row in session.scalars(select(DeploymentRow).order_by(DeploymentRow.name))]


def deployment(registry: Registry, name: str) -> DeploymentRecord | None:
    """Returns one deployment."""
    with registry.database.reading() as session:
        row = session.get(DeploymentRow, name)
        return None if row is None else deployment_record(row)
