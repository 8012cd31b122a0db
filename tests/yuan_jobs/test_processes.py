"""Stopping when asked, and ending with the parent: real signals, real processes."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from tests.machine import wait_until
from toy_home import is_alive

from yuan_jobs.processes import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_a_request_and_the_second_an_interrupt(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert not stop.requested()
        os.kill(os.getpid(), number)
        assert stop.requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_what_passes_signals_on_only_counts_them() -> None:
    with StopRequest(insistent=False) as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.count == 3


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def use() -> None:
        with StopRequest() as stop:
            seen.append(stop.requested())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) == before


CHILD = """
import os, time
from yuan_jobs.processes import end_with_parent, parent_from_environment
end_with_parent(parent_from_environment())
assert "YUAN_PARENT_PID" not in os.environ
print(os.getpid(), flush=True)
time.sleep(600)
"""

PARENT = f"""
import os, subprocess, sys, time
process = subprocess.Popen([sys.executable, "-c", {CHILD!r}], env={{**os.environ, "YUAN_PARENT_PID": str(os.getpid())}})
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_child_ends_with_its_parent_even_if_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until(lambda: not is_alive(child))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_child_whose_parent_was_gone_before_it_could_ask_ends_too() -> None:
    environment = {**os.environ, "YUAN_PARENT_PID": "1"}
    ended = subprocess.run([sys.executable, "-c", CHILD], env=environment, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
