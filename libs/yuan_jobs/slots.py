"""Devices as slots that jobs and deployments have, so that training and serving never share one by accident.

Slots are numbers over all nodes. A job that wants more than the stack has gets all of them: waiting would never end.
"""

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from yuan_events import InputError
from yuan_jobs.models import JobRow, SlotRow
from yuan_jobs.registry import Registry
from yuan_manifest import Kind, rank_count, topology_of_plain

TAKERS = (Kind.pretrain, Kind.finetune)
"""Kinds of jobs that hold devices."""


class NoFreeDevices(InputError):
    """Too few devices are free for a deployment."""


def devices_of(row: JobRow, capacity: int) -> int:
    """Returns how many slots a job holds while it runs: one for each of its ranks."""
    return min(rank_count(topology_of_plain(row.topology)), capacity) if row.kind in TAKERS else 0


def free_devices(session: Session, capacity: int) -> int:
    """Returns how many of a stack's devices nobody has."""
    taken = session.scalar(select(func.count()).where(SlotRow.device < capacity)) or 0
    return capacity - taken


def shortage(session: Session, row: JobRow, capacity: int) -> str | None:
    """Returns what a job waits for, in one line; None if its devices are free."""
    wanted = devices_of(row, capacity)
    if wanted == 0 or (free := free_devices(session, capacity)) >= wanted:
        return None
    holders = session.execute(select(SlotRow.job_id, SlotRow.deployment).distinct())
    names = sorted(job_id or f"deployment {deployment}" for job_id, deployment in holders)
    return f"waits for {wanted} of {capacity} devices, {free} free; held by {', '.join(names)}"


def take_for_job(session: Session, row: JobRow, capacity: int) -> tuple[int, ...]:
    """Gives a job its devices, which are free, and returns them."""
    return _take(session, devices_of(row, capacity), capacity, job_id=row.id)


def take_for_deployment(registry: Registry, name: str, wanted: int, capacity: int) -> list[int]:
    """Gives a deployment its devices and returns them; it keeps those that it has if they are as many.

    Raises:
        NoFreeDevices: if too few are free; it keeps those that it had.
    """
    with registry.database.writing() as session:
        present = _of_deployment(session, name)
        if len(present) == wanted and present[-1] < capacity:
            return present
        session.execute(delete(SlotRow).where(SlotRow.deployment == name))
        if (free := free_devices(session, capacity)) < wanted:
            raise NoFreeDevices(f"deployment {name}: wants {wanted} devices, {free} of {capacity} are free")
        return list(_take(session, wanted, capacity, deployment=name))


def release_deployment(registry: Registry, name: str) -> None:
    """Gives a deployment's devices back."""
    with registry.database.writing() as session:
        session.execute(delete(SlotRow).where(SlotRow.deployment == name))


def _of_deployment(session: Session, name: str) -> list[int]:
    return list(session.scalars(select(SlotRow.device).where(SlotRow.deployment == name).order_by(SlotRow.device)))


def _take(session: Session, wanted: int, capacity: int, **holder: str) -> tuple[int, ...]:
    taken = set(session.scalars(select(SlotRow.device)))
    given = [device for device in range(capacity) if device not in taken][:wanted]
    session.add_all(SlotRow(device=device, **holder) for device in given)
    session.flush()
    return tuple(given)
