"""Messages that wake a worker, written with what they tell of: a broker that is down loses nothing.

The reconciler sends them.
"""

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from yuan_jobs.models import JobRow, OutboxRow
from yuan_jobs.states import JobState


def enqueue(session: Session, row: JobRow) -> None:
    """Makes a job QUEUED, with a message in the outbox."""
    if row.queue is None:
        raise ValueError(f"job {row.id} is done by no service")
    row.state = JobState.QUEUED
    session.flush()
    session.add(OutboxRow(job_id=row.id, queue=row.queue, created=datetime.now(UTC)))
