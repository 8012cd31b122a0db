"""Deployments that jobs made for their own time know which jobs use them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; what is deployed already stays so until somebody says otherwise."""
    op.add_column("deployments", sa.Column("users", sa.JSON(), nullable=True))
