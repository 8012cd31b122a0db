"""The registry's tables. Changing one needs a migration in `migrations/versions`; a test compares the two.

Only types that SQLite and PostgreSQL share, so that the same tables serve a laptop and a host with many services.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from yuan_jobs.states import JobState

# Constraints have names of their own making, or a later migration could not drop them on SQLite.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite drops the zone of what it stores; this gives it back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Stores the moment in UTC; a moment without zone is refused."""
        del dialect
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment in the registry needs a time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Returns the moment with its zone."""
        del dialect
        return value if value is None or value.tzinfo is not None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """What the tables share."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(), dict[str, str]: JSON()}  # noqa: RUF012


class JobRow(Base):
    """One job: what was asked for, and how it stands.

    `attempt` counts its runs and is the fencing token: every write of an attempt names it and is refused once
    another attempt has begun. `inputs` has the versions of the inputs by name (`tokenizer/demo@3`, or a digest).
    """

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "identity", "created"), Index(None, "state"))

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(200))
    identity: Mapped[str] = mapped_column(String(64))
    recipe: Mapped[dict[str, Any]]
    inputs: Mapped[dict[str, str]]
    topology: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(12), default=JobState.WAITING)
    attempt: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    created: Mapped[datetime]
    started: Mapped[datetime | None]
    finished: Mapped[datetime | None]


class ArtifactRow(Base):
    """One published version of an artifact; before this row exists nobody can see it."""

    __tablename__ = "artifacts"
    __table_args__ = (UniqueConstraint("kind", "name", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    path: Mapped[str] = mapped_column(String(400), unique=True)
    digest: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created: Mapped[datetime]


class ArtifactInputRow(Base):
    """Lineage: an artifact was made from another, which stood under a name in the manifest's `inputs`."""

    __tablename__ = "artifact_inputs"

    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"), primary_key=True)
    input_name: Mapped[str] = mapped_column(String(100), primary_key=True)
    input_artifact_id: Mapped[int] = mapped_column(ForeignKey("artifacts.id"), index=True)
