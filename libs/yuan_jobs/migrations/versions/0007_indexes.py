"""Indexes for what is asked most: whether a job like this one has been submitted, and a page of the newest jobs."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds them; the index of (parent_id, created) does what that of parent_id alone did."""
    op.create_index("ix_jobs_submission_key_created", "jobs", ["submission_key", "created"])
    op.create_index("ix_jobs_parent_id_created", "jobs", ["parent_id", "created"])
    op.drop_index("ix_jobs_parent_id", "jobs")
