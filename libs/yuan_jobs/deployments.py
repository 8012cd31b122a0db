"""What is to be served: a table of desired state, which the inference service reads when it starts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, select

from yuan_jobs.models import DeploymentRow, SlotRow
from yuan_jobs.records import DeploymentRecord, deployment_record
from yuan_jobs.registry import Registry, now
from yuan_jobs.states import DeploymentState


def deploy(
    registry: Registry, name: str, artifact: str, serving: Mapping[str, Any], job_id: str | None = None
) -> DeploymentRecord:
    """Wants a model served under a name, in place of what was.

    Args:
        registry: where it is written down.
        name: that clients ask for it by.
        artifact: the model, `model/NAME@VERSION`.
        serving: the manifest's `serving` section, plain.
        job_id: the job that asked for it.
    """
    with registry.database.writing() as session:
        row = session.get(DeploymentRow, name)
        if row is None:
            row = DeploymentRow(name=name)
            session.add(row)
        row.artifact, row.serving, row.job_id = artifact, dict(serving), job_id
        row.state, row.reason, row.updated = DeploymentState.LOADING, None, now()
        session.flush()
        return deployment_record(row)


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
