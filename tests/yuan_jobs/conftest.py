"""The toys of `tests/toys` for this folder's tests, and registries on both databases."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "toys"))
sys.path.append(str(Path(__file__).parent))

import postgresql
import queue_stack
from job_stack import job_stack
from toy_home import Toys, toys

from yuan_jobs.registry import Registry

__all__ = ["job_stack", "toys"]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server; skips where none is installed."""
    postgresql.programs()
    with postgresql.running() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server: postgresql.Server) -> str:
    """The URL of a database with all the tables."""
    url = postgresql_server.url(postgresql_server.new_database())
    Registry.open(url).close()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty registry, on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    postgresql.empty(url)
    return url


@pytest.fixture
def registry(registry_url: str) -> Iterator[Registry]:
    """An empty registry, on each database."""
    opened = Registry.open(registry_url)
    yield opened
    opened.close()


@pytest.fixture
def stack(toys: Toys) -> Iterator[queue_stack.QueueStack]:
    """A broker and a registry; reconcilers and workers are the test's to start."""
    with queue_stack.running(toys) as running_stack:
        yield running_stack


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
