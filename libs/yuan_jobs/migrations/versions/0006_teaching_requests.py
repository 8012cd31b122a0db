"""What people ask a model to learn."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the requests."""
    op.create_table(
        "teaching_requests",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("asked", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("filed_by", sa.String(100), nullable=False),
        sa.Column("filed", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reviewer", sa.String(100), nullable=False),
        sa.Column("reviewed", sa.DateTime(timezone=True), nullable=True),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("cycle", sa.String(80), nullable=True),
        sa.Column("gathered", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column("answered", sa.DateTime(timezone=True), nullable=True),
        sa.Column("history", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_teaching_requests"),
    )
    op.create_index("ix_teaching_requests_state", "teaching_requests", ["state"])
    op.create_index("ix_teaching_requests_filed", "teaching_requests", ["filed"])
    op.create_index(
        "uq_teaching_requests_open_digest",
        "teaching_requests",
        ["digest"],
        unique=True,
        sqlite_where=sa.text("state IN ('FILED', 'ACCEPTED', 'IN_CYCLE')"),
        postgresql_where=sa.text("state IN ('FILED', 'ACCEPTED', 'IN_CYCLE')"),
    )
