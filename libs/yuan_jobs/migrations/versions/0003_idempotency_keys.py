"""Idempotency keys have a table of their own: a job that was there before may be what a key stands for, too."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Moves the keys."""
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_idempotency_keys_job_id_jobs"),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
    )
    op.execute(
        "INSERT INTO idempotency_keys (key, job_id, request, created) "
        "SELECT idempotency_key, id, '', created FROM jobs WHERE idempotency_key IS NOT NULL"
    )
    op.drop_index("uq_jobs_idempotency_key", "jobs")
    op.drop_column("jobs", "idempotency_key")
