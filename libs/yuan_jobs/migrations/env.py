"""Alembic's entry point: runs the migrations on the connection, inside the transaction, that the registry opened."""

from alembic import context

from yuan_jobs.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
