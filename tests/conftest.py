"""Fixtures that all tests share."""

import faulthandler
import os
import random
import signal
import sys
from collections.abc import Generator
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A property is about behaviour: how long an example takes on a busy machine must not fail it. The examples are the same
# in every run, so that a run says something of a change and not of luck; `pytest --hypothesis-profile search` draws new
# ones.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("behaviour", settings.get_profile("search"), derandomize=True)
settings.load_profile("behaviour")

# `make test &` in a script ignores SIGINT, `nohup` SIGHUP, and so would every process that a test wants to stop.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


DEAF_S = 60.0
"""How much longer than it may a test hangs before the whole run is ended: pytest-timeout has had its chance."""

_stderr = sys.__stderr__


def pytest_configure() -> None:
    """Keeps the terminal, which is not what stderr is while a test runs."""
    global _stderr  # noqa: PLW0603 - the hook below has no other place for it
    _stderr = os.fdopen(os.dup(2), "w")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Ends the run with every thread's stack where a test hangs in a library in which Python sees no signal."""
    mark = item.get_closest_marker("timeout")
    seconds = float(mark.args[0] if mark is not None and mark.args else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(seconds + DEAF_S, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Makes what a test draws the same whichever tests were run before it in this process."""
    random.seed(0)
    for library, seed in (("numpy", "random.seed"), ("torch", "manual_seed")):
        if library in sys.modules:  # a test that needs neither does not wait for them
            attrgetter(seed)(sys.modules[library])(0)


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
