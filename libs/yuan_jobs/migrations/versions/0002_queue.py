"""The queue: what is wanted of jobs, their needs and attempts, outbox, workers, leases, slots, deployments."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ACTIVE = sa.text("state IN ('WAITING', 'QUEUED', 'RUNNING') AND NOT force")


def upgrade() -> None:
    """Adds what the queue needs."""
    # Plain ADD COLUMN, for which SQLite wants defaults; copying the table would trip over those that refer to it.
    for column in (
        sa.Column("manifest", sa.JSON(), nullable=True),
        sa.Column("folder", sa.String(), nullable=False, server_default=""),
        sa.Column("desired", sa.String(8), nullable=False, server_default="RUN"),
        sa.Column("lost_attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("artifact", sa.String(140), nullable=True),
        sa.Column("submission_key", sa.String(64), nullable=True),
        sa.Column("idempotency_key", sa.String(200), nullable=True),
        sa.Column("parent_id", sa.String(80), nullable=True),
        sa.Column("step", sa.String(100), nullable=False, server_default=""),
        sa.Column("force", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("queue", sa.String(40), nullable=True),
        sa.Column("lease_owner", sa.String(120), nullable=True),
        sa.Column("lease_counter", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("lease_seconds", sa.Integer(), nullable=False, server_default="0"),
    ):
        op.add_column("jobs", column)
    op.create_index("ix_jobs_created", "jobs", ["created"])
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"])
    op.create_index("uq_jobs_idempotency_key", "jobs", ["idempotency_key"], unique=True)
    op.create_index(
        "uq_jobs_active_submission_key",
        "jobs",
        ["submission_key"],
        unique=True,
        sqlite_where=_ACTIVE,
        postgresql_where=_ACTIVE,
    )
    op.execute(
        "UPDATE jobs SET artifact = (SELECT a.kind || '/' || a.name || '@' || a.version FROM artifacts a "
        "WHERE a.job_id = jobs.id)"
    )
    op.create_table(
        "job_needs",
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("needs_id", sa.String(80), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_job_needs_job_id_jobs"),
        sa.ForeignKeyConstraint(["needs_id"], ["jobs.id"], name="fk_job_needs_needs_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "needs_id", name="pk_job_needs"),
    )
    op.create_index("ix_job_needs_needs_id", "job_needs", ["needs_id"])
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(120), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("topology", sa.JSON(), nullable=False),
        sa.Column("started", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(12), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id_jobs"),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(80), nullable=False),
        sa.Column("queue", sa.String(40), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_outbox_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_index("ix_outbox_job_id", "outbox", ["job_id"])
    op.create_index("ix_outbox_sent", "outbox", ["sent"])
    op.create_table(
        "workers",
        sa.Column("id", sa.String(120), nullable=False),
        sa.Column("service", sa.String(40), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(80), nullable=True),
        sa.Column("started", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(120), nullable=True),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "slots",
        sa.Column("device", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.String(80), nullable=True),
        sa.Column("deployment", sa.String(100), nullable=True),
        sa.PrimaryKeyConstraint("device", name="pk_slots"),
    )
    op.create_index("ix_slots_job_id", "slots", ["job_id"])
    op.create_index("ix_slots_deployment", "slots", ["deployment"])
    op.create_table(
        "deployments",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("artifact", sa.String(140), nullable=False),
        sa.Column("serving", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("job_id", sa.String(80), nullable=True),
        sa.Column("updated", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_deployments"),
    )
