"""A registry as one file, and back: the same file for SQLite and PostgreSQL, so that a home can move between them.

The file is gzipped JSON lines of what one transaction sees while the stack goes on: a head (format, schema, program), a
line `[table, {column: value}]` a row, parents before children, then the number of rows of each table, and last the
sha256 of all lines before: a file that was cut off or changed is refused as a whole. Moments are ISO 8601 in UTC.
Files of the store and of runs are not in it: they are folders, which any tool copies.

It is written in the schema that the registry has, and read into tables of that schema, which the migrations then bring
to this program's: a backup is good for every later version.
"""

import gzip
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

from sqlalchemy import JSON, Connection, DateTime, MetaData, Table, func, insert, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from yuan_events import InputError, WorkFailed, one_line
from yuan_jobs import migrations
from yuan_jobs.database import Database, look_at, upgrade
from yuan_jobs.sqlite import SQLITE
from yuan_jobs.worker_identity import installed_version

FORMAT = "yuan-registry"
FORMAT_VERSION = 1

LEFT_OUT = frozenset({"alembic_version", "workers", "leases"})
"""Not kept: the schema is in the head, and processes that live now make themselves known where they run."""

_BATCH = 500
_DAMAGED = ("file is not a database", "malformed")
_NO_BACKUP = "is no whole backup of a registry"


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        revision: of its schema.
        version: of the program that wrote it.
        created: when.
        rows: how many, by table.
    """

    revision: str
    version: str
    created: datetime
    rows: Mapping[str, int]


def back_up(url: str, path: Path) -> Backup:
    """Writes a registry into a file, whole or not at all, for its user alone; one that is there is replaced.

    Raises:
        InputError: if there is no registry, or no folder for the file.
        WorkFailed: if the file cannot be written, or the registry cannot be read to its end.
    """
    look = look_at(url)
    if look.revision is None:
        raise InputError(f"registry {look.shown}: there is nothing in it yet to back up; see cluster.registry")
    created = datetime.now(UTC)
    rows: dict[str, int] = {}
    database = Database.open(url, migrate=False)
    try:
        with _written(path) as write, database.reading() as session:
            connection = session.connection()
            revision = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
            head = {"format": FORMAT, "format_version": FORMAT_VERSION, "revision": revision}
            write(head | {"version": installed_version(), "created": created.isoformat()})
            for table in _tables(connection):
                rows[table.name] = 0
                query = select(table).order_by(*table.primary_key.columns)
                for row in connection.execution_options(yield_per=_BATCH).execute(query).mappings():
                    write([table.name, {name: _to_json(value) for name, value in row.items()}])
                    rows[table.name] += 1
            write({"rows": rows})
    finally:
        database.close()
    return Backup(revision, installed_version(), created, rows)


def read_backup(path: Path) -> Backup:
    """Reads a backup to its end and returns what it holds.

    Raises:
        InputError: if it cannot be read, is no whole backup, or is of a newer program.
    """
    digest = hashlib.sha256()
    head: dict[str, Any] = {}
    tail: dict[str, Any] = {}
    told: dict[str, Any] = {}
    counted: dict[str, int] = {}
    try:
        with gzip.open(path, "rb") as file:
            for number, line in enumerate(file):
                value: Any = json.loads(line)
                if number == 0:
                    head = dict(value)
                    _check_head(path, head)
                if (row := _row_of(value)) is not None:
                    counted[row[0]] = counted.get(row[0], 0) + 1
                elif "sha256" in value:
                    told = value
                    break
                else:
                    tail = value
                digest.update(line)
            trailing = file.read(1)
    except OSError as error:
        reason = error.strerror or "is no gzip file"
        raise InputError(f"{path}: {_NO_BACKUP} ({reason.lower()}); name another file") from None
    except (ValueError, TypeError, AttributeError, EOFError, zlib.error):
        raise InputError(f"{path}: {_NO_BACKUP}: it was cut off or changed; name another file") from None
    rows: dict[str, int] = tail.get("rows") or {}
    counts = {name: count for name, count in rows.items() if count}
    if told.get("sha256") != digest.hexdigest() or trailing or counted != counts:
        raise InputError(f"{path}: {_NO_BACKUP}: it was cut off or changed; name another file")
    return Backup(head["revision"], head["version"], datetime.fromisoformat(head["created"]), rows)


def _check_head(path: Path, head: Mapping[str, Any]) -> None:
    if head.get("format") != FORMAT:
        raise InputError(f"{path}: {_NO_BACKUP}; name a file that `yuan backup` wrote")
    if head["format_version"] != FORMAT_VERSION or head["revision"] not in migrations.REVISIONS:
        raise InputError(
            f"{path}: written by a newer Yuan Stack ({head['version']}, schema {head['revision']}, this one knows "
            f"{migrations.HEAD}); update Yuan Stack"
        )


def restore(url: str, path: Path, *, force: bool = False) -> Backup:
    """Makes a registry what a backup holds, in one transaction: all of it, or nothing has changed.

    Args:
        url: of the registry; made if it is not there.
        path: of the backup.
        force: replace the jobs and artifacts that are in it now. A SQLite file that is damaged is put aside then.

    Raises:
        InputError: if the file is no whole backup or of a newer program, or the registry has jobs and force is off.
        WorkFailed: if the registry cannot be written.
    """
    backup = read_backup(path)
    shown = _usable(url, force=force)
    database = Database.open(url)
    try:
        with database.writing() as session:
            connection = session.connection()
            if not force:
                _check_unused(connection, shown)
            metadata = MetaData()
            metadata.reflect(connection)
            metadata.drop_all(connection)
            upgrade(connection, backup.revision)
            _fill(connection, path)
            upgrade(connection)
    except SQLAlchemyError as error:
        raise WorkFailed(f"registry {shown}: {one_line(error)}; nothing has changed") from None
    finally:
        database.close()
    return backup


def _usable(url: str, *, force: bool) -> str:
    """Puts a damaged SQLite file aside where that is allowed; returns what to call the registry.

    Raises:
        InputError: if it is damaged and that is not allowed, or cannot be opened for another reason.
    """
    try:
        look = look_at(url)
        if not look.damage:
            return look.shown
        shown, damage = look.shown, look.damage
    except InputError as error:
        shown, damage = url.removeprefix(SQLITE), str(error)
        if shown == url or not any(words in damage for words in _DAMAGED):
            raise
    if not force:
        raise InputError(f"registry {shown} is damaged; --force puts the file aside and restores into a new one")
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for suffix in ("", "-wal", "-shm"):
        if (file := Path(shown + suffix)).exists():
            file.rename(f"{shown}.damaged-{stamp}{suffix}")
    return shown


def _check_unused(connection: Connection, shown: str) -> None:
    tables = {table.name: table for table in _tables(connection)}
    jobs, artifacts = (
        connection.execute(select(func.count()).select_from(tables[name])).scalar_one()
        for name in ("jobs", "artifacts")
    )
    if jobs or artifacts:
        raise InputError(
            f"registry {shown}: holds {jobs} jobs and {artifacts} artifacts, which a restore would replace; "
            "back it up (yuan backup FILE), then add --force"
        )


def _fill(connection: Connection, path: Path) -> None:
    """Inserts the rows of a backup that `read_backup` has found whole."""
    tables = {table.name: table for table in _tables(connection)}
    for name, lines in groupby(_rows(path), key=lambda line: line[0]):
        table = tables[name]
        moments = [column.name for column in table.columns if isinstance(column.type, DateTime)]
        rows = (row | {key: _moment(row[key]) for key in moments} for _, row in lines)
        while batch := list(islice(rows, _BATCH)):
            connection.execute(insert(table), batch)
        _count_on(connection, table)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with gzip.open(path, "rb") as file:
        for line in file:
            if (row := _row_of(json.loads(line))) is not None:
                yield row


def _row_of(value: Any) -> tuple[str, dict[str, Any]] | None:
    """Returns a row's table and values; None for a line that is none."""
    if not isinstance(value, list):
        return None
    name, row = cast("tuple[str, dict[str, Any]]", value)
    return name, row


def _count_on(connection: Connection, table: Table) -> None:
    """Lets PostgreSQL count on behind the highest id; SQLite does so by itself."""
    key = list(table.primary_key.columns)
    if connection.dialect.name != "postgresql" or len(key) != 1:
        return
    sequence = connection.execute(select(func.pg_get_serial_sequence(table.name, key[0].name))).scalar()
    if sequence is not None:
        connection.execute(select(func.setval(sequence, select(func.max(key[0])).scalar_subquery())))


def _tables(connection: Connection) -> list[Table]:
    """Returns the tables that a backup holds as they are in the database, parents before children."""
    metadata = MetaData()
    names = [name for name in inspect(connection).get_table_names() if name not in LEFT_OUT]
    metadata.reflect(connection, only=names)
    for table in metadata.tables.values():
        for column in table.columns:
            if isinstance(column.type, JSON):
                column.type = JSON(none_as_null=True)  # what is not there is no JSON either
    return metadata.sorted_tables


def _to_json(value: object) -> object:
    if not isinstance(value, datetime):
        return value
    # SQLite keeps no zone: all of them are UTC.
    return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()


def _moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


@contextmanager
def _written(path: Path) -> Generator[Callable[[object], None]]:
    """Gives a function that writes a line; the file appears at the end of the block, closed by its digest."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file to write")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no folder; make it, or name another file")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    digest = hashlib.sha256()
    try:
        # Recipes in it are for nobody else to read.
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:

                def write(value: object) -> None:
                    line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                    digest.update(line)
                    packed.write(line)

                yield write
                packed.write(json.dumps({"sha256": digest.hexdigest()}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise WorkFailed(f"{path}: cannot write the backup: {(error.strerror or str(error)).lower()}") from None
    finally:
        draft.unlink(missing_ok=True)
