"""Opens the registry's database: schema, transactions, and errors of one line; on SQLite and PostgreSQL alike.

There is one writer at a time on both: SQLite has no other way, PostgreSQL gets it by a lock that every writing
transaction takes first. So what a transaction has read holds until it commits, and one reasoning serves both. What is
particular to one of them is in this file and `sqlite.py`.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.orm import Session

from yuan_events import InputError, WorkFailed, one_line
from yuan_jobs import migrations
from yuan_jobs.sqlite import BUSY_TIMEOUT_S, SQLITE, use_write_ahead_log

POSTGRESQL = "postgresql+psycopg://"
_WRITES = "yuan_writes"
_WRITE_LOCK = 0x7975616E  # "yuan"
_CONNECT_TIMEOUT_S = 10


class RegistryAway(WorkFailed):
    """The database does not answer or cannot be written now: its server is down, its disk is full. That may pass."""


class Database:
    """An open registry database at the newest schema; may be used by several threads."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self._shown = shown

    @classmethod
    def open(cls, url: str, *, migrate: bool = True) -> "Database":
        """Opens a database, and makes or migrates its tables; safe to do in several processes at once.

        Args:
            url: where it is.
            migrate: off: tables stay as they are; only for who looks at those of any schema.

        Raises:
            InputError: if it cannot be opened, is something else, or has the schema of a newer program.
        """
        shown = _shown(url)
        if url.startswith(SQLITE):
            try:
                Path(shown).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"registry {shown}: {(error.strerror or str(error)).lower()}") from None
        engine = _engine(url)
        try:
            if url.startswith(SQLITE):
                use_write_ahead_log(engine)
            if migrate:
                _migrate(engine, shown)
        except DBAPIError as error:
            engine.dispose()
            raise InputError(f"registry {shown}: {_reason(error)}") from None
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, shown)

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Generator[Session, None, None]:
        """Gives a session for one consistent look; nothing that is changed in it is kept."""
        with self._translated(), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session, None, None]:
        """Gives a session that holds the write lock from its start and commits at its end."""
        engine = self._engine.execution_options(**{_WRITES: True})
        with self._translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        try:
            yield
        except IntegrityError:
            raise  # is the caller's to handle
        except (OperationalError, InterfaceError) as error:
            raise RegistryAway(f"registry {self._shown}: {_reason(error)}") from error
        except DBAPIError as error:
            raise WorkFailed(f"registry {self._shown}: {_reason(error)}") from error


@dataclass(frozen=True)
class Look:
    """A registry as it is found.

    Attributes:
        shown: what to call it; no password.
        revision: its schema; None: there is none yet.
        now: its server's clock in seconds since 1970; None: it has no clock of its own.
        damage: what SQLite finds wrong with the file; empty: nothing.
    """

    shown: str
    revision: str | None
    now: float | None = None
    damage: str = ""


def look_at(url: str) -> Look:
    """Looks at a registry and whether it can be written, without making or migrating anything.

    Raises:
        InputError: if it cannot be opened or written, is something else, or has the schema of a newer program.
    """
    shown = _shown(url)
    if url.startswith(SQLITE) and not Path(shown).exists():
        return Look(shown, None)
    engine = _engine(url)
    try:
        with engine.connect() as connection, connection.begin():
            revision = _revision(connection, shown)
            if url.startswith(SQLITE):
                damage = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
                look = Look(shown, revision, damage="" if damage == "ok" else " ".join(damage.split()))
            else:
                seconds: Any = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar()
                look = Look(shown, revision, now=float(seconds))
        if not look.damage:
            with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin() as writing:
                writing.rollback()
        return look
    except DBAPIError as error:
        raise InputError(f"registry {shown}: {_reason(error)}") from None
    finally:
        engine.dispose()


def _engine(url: str) -> Engine:
    if url.startswith(SQLITE):
        return _sqlite_engine(url)
    if url.startswith(POSTGRESQL):
        return _postgresql_engine(url)
    raise InputError(f"registry {_shown(url)}: expected sqlite:///FILE or {POSTGRESQL}USER:PASSWORD@HOST/DATABASE")


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        del record
        # Python's sqlite3 begins transactions late and on its own; we begin them ourselves, below.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        # A writer takes the lock at its start: one that read first and then wants to write would fail, not wait.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")

    return engine


def _postgresql_engine(url: str) -> Engine:
    try:
        # A server that was restarted leaves dead connections in the pool: they are tried before use. The encoding is
        # ours to say: a database made as SQL_ASCII (an initdb in the C locale) would give text back as bytes.
        arguments = {"connect_timeout": _CONNECT_TIMEOUT_S, "client_encoding": "utf8"}
        engine = create_engine(url, pool_pre_ping=True, connect_args=arguments)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise InputError(f"registry {_shown(url)}: {one_line(error)}") from None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        if _writes(connection):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")
        else:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

    return engine


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_WRITES, False))


def _migrate(engine: Engine, shown: str) -> None:
    """Brings the tables to the newest schema, in one transaction."""
    with engine.connect() as connection, connection.begin():
        if _revision(connection, shown) == migrations.HEAD:
            return
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        if _revision(connection, shown) == migrations.HEAD:  # another process was faster
            return
        upgrade(connection)


def _revision(connection: Connection, shown: str) -> str | None:
    """Returns the schema's revision; None in an empty database."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables:
            raise InputError(f"registry {shown}: a database of something else; choose another one")
        return None
    revision: Any = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision is not None and revision not in migrations.REVISIONS:
        raise InputError(
            f"registry {shown}: made by a newer Yuan Stack (schema {revision}, this one knows {migrations.HEAD}); "
            "update Yuan Stack, or use another home (YUAN_HOME)"
        )
    return revision


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Runs the migrations up to a revision, inside the connection's transaction."""
    from alembic import command  # noqa: PLC0415 - needed once in a registry's life, and 0.15 s to load
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _shown(url: str) -> str:
    """Returns what errors call a database: a file's path, or the URL without its password."""
    if url.startswith(SQLITE):
        return url.removeprefix(SQLITE)
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return "URL"  # which may hold a password


def _reason(error: DBAPIError) -> str:
    """Returns what the driver says, in one line."""
    return " ".join(str(error.orig).split())
