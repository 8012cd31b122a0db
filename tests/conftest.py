"""Fixtures that all tests share."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A property is about behaviour: how long an example takes on a busy machine must not fail it.
settings.register_profile("behaviour", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("behaviour")

# `make test &` in a script ignores SIGINT, `nohup` SIGHUP, and so would every process that a test wants to stop.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

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
