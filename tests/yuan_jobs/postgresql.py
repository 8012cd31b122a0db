"""A PostgreSQL server of the tests' own, where its programs are installed (Debian: `postgresql`)."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine

from yuan_jobs.models import Base

PORT = "54321"  # names the socket only: the server listens on no port


def programs() -> Path:
    """Returns the folder of initdb and pg_ctl; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("PostgreSQL is not installed here (Debian: apt-get install postgresql)")
    return found[-1].parent if found else Path(str(on_path)).parent


@contextmanager
def running() -> Iterator["Server"]:
    """Runs a server in a folder of its own; it refuses to be root, so root lends it another user."""
    folder = Path(tempfile.mkdtemp(prefix="yuan-postgresql-"))
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            user = "nobody"
        shutil.chown(folder, user)
    binaries = programs()

    def run(*command: str) -> None:
        with (folder / "output").open("ab") as output:
            subprocess.run(command, check=True, user=user, cwd=folder, stdout=output, stderr=output, timeout=120)

    data = folder / "data"
    (folder / "output").touch()
    run(str(binaries / "initdb"), "-D", str(data), "-U", "yuan", "-A", "trust", "--no-sync", "-E", "UTF8")
    options = f"-c listen_addresses= -c fsync=off -k {folder} -p {PORT}"
    run(str(binaries / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
    try:
        yield Server(folder)
    finally:
        run(str(binaries / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = 0

    def url(self, database: str) -> str:
        """Returns the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://yuan@/{database}?host={self.folder}&port={PORT}"

    def new_database(self, encoding: str = "UTF8") -> str:
        """Makes a database; returns its name."""
        self._made += 1
        name = f"yuan_{self._made}"
        with psycopg.connect(
            f"host={self.folder} port={PORT} user=yuan dbname=postgres", autocommit=True
        ) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'".encode())
        return name


def empty(url: str) -> None:
    """Empties all tables of a registry, which takes a hundredth of making another one."""
    engine = create_engine(url)
    with engine.begin() as connection:
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
        connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY")
    engine.dispose()
