"""A PostgreSQL server of the tests' own, where its programs are installed (Debian: `postgresql`)."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
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


class Server:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._binaries = programs()
        self._made = 0
        self._user: str | None = None
        if os.geteuid() == 0:
            # It refuses to be root, so root lends it another user.
            try:
                self._user = pwd.getpwnam("postgres").pw_name
            except KeyError:
                self._user = "nobody"
            shutil.chown(folder, self._user)
        (folder / "output").touch()
        self._run("initdb", "-D", str(self._data), "-U", "yuan", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        options = f"-c listen_addresses= -c fsync=off -k {self.folder} -p {PORT}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-o", options, "start")

    def kill(self) -> None:
        """Ends it and every process of it by SIGKILL."""
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)

    def stop(self) -> None:
        """Ends it, where it runs."""
        with suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        with (self.folder / "output").open("ab") as output:
            subprocess.run(
                [str(self._binaries / program), *arguments],
                check=True,
                user=self._user,
                cwd=self.folder,
                stdout=output,
                stderr=output,
                timeout=120,
            )

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


@contextmanager
def running() -> Iterator[Server]:
    """Runs a server in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="yuan-postgresql-"))
    try:
        server = Server(folder)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server; skips where none is installed."""
    with running() as server:
        yield server


def empty(url: str) -> None:
    """Empties all tables of a registry, which takes a hundredth of making another one."""
    engine = create_engine(url)
    with engine.begin() as connection:
        tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
        connection.exec_driver_sql(f"TRUNCATE {tables} RESTART IDENTITY")
    engine.dispose()
