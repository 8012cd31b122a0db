"""Opens the registry's database: pragmas, schema, transactions, and errors of one line.

SQLite for now; whatever is particular to it is in this file.
"""

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from yuan_events import InputError, WorkFailed
from yuan_jobs import migrations

_SQLITE = "sqlite:///"
_BUSY_TIMEOUT_S = 30.0
_WRITES = "yuan_writes"


class Database:
    """An open registry database at the newest schema."""

    def __init__(self, engine: Engine, url: str) -> None:
        self._engine = engine
        self._url = url

    @classmethod
    def open(cls, url: str) -> "Database":
        """Opens a database, and makes or migrates its tables; safe to do in several processes at once.

        Raises:
            InputError: if it cannot be opened, is something else, or has the schema of a newer program.
        """
        if not url.startswith(_SQLITE):
            raise InputError(f"registry {url}: this version keeps its registry in SQLite only (sqlite:///FILE)")
        file = Path(url.removeprefix(_SQLITE))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"registry {file}: {(error.strerror or str(error)).lower()}") from None
        engine = _sqlite_engine(url)
        try:
            _use_write_ahead_log(engine)
            _migrate(engine, file)
        except DBAPIError as error:
            engine.dispose()
            raise InputError(f"registry {file}: {error.orig}") from None
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, url)

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
        except DBAPIError as error:
            raise WorkFailed(f"registry {self._url.removeprefix(_SQLITE)}: {error.orig}") from error


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, record: object) -> None:  # pyright: ignore[reportUnusedFunction]
        del record
        # Python's sqlite3 begins transactions late and on its own; we begin them ourselves, below.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        # A writer takes the lock at its start: one that read first and then wants to write would fail, not wait.
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_write_ahead_log(engine: Engine) -> None:
    """Lets readers and one writer work side by side. The mode is kept in the file.

    SQLite does not wait (busy_timeout) for others when it changes the mode, so this does.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        connection = engine.raw_connection()
        try:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode")
            if cursor.fetchone() != ("wal",):
                cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise DBAPIError("PRAGMA journal_mode", None, error) from error
            time.sleep(0.02)
        except sqlite3.DatabaseError as error:
            raise DBAPIError("PRAGMA journal_mode", None, error) from error
        finally:
            connection.close()


def _migrate(engine: Engine, file: Path) -> None:
    """Brings the tables to the newest schema, in one transaction."""
    with engine.connect() as connection, connection.begin():
        if _revision(connection, file) == migrations.HEAD:
            return
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        if _revision(connection, file) == migrations.HEAD:  # another process was faster
            return
        upgrade(connection)


def _revision(connection: Connection, file: Path) -> str | None:
    """Returns the schema's revision; None in an empty database."""
    tables = inspect(connection).get_table_names()
    if "alembic_version" not in tables:
        if tables:
            raise InputError(f"registry {file}: a database of something else; choose another file")
        return None
    revision: Any = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision is not None and revision not in migrations.REVISIONS:
        raise InputError(
            f"registry {file}: made by a newer Yuan Stack (schema {revision}, this one knows {migrations.HEAD}); "
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
