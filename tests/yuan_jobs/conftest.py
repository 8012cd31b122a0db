"""The toys of `tests/toys` for this folder's tests, and registries on both databases."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "toys"))
sys.path.append(str(Path(__file__).parent))

import postgresql
from job_stack import job_stack
from postgresql import postgresql_server
from queue_stack import stack
from toy_home import small_disk, toys

from yuan_jobs.registry import Registry

__all__ = ["job_stack", "postgresql_server", "small_disk", "stack", "toys"]


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
