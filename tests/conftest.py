"""Fixtures that all tests share."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests run in."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developers' folder of golden files beside the checkout; a user's machine has none."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "golden").is_dir() or not (folder / "data").is_dir():
        pytest.skip("the developers' golden files (../shared) are not on this machine")
    return folder
