"""However a run is ended, no process is left of it and the next run goes on."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest
from tests.machine import wait_until
from toy_home import Toys, is_alive

RUN = ("yuan_cli.main", "run", "pipeline.yaml")


def start_held(toys: Toys) -> tuple["subprocess.Popen[str]", int]:
    """Starts the pipeline; returns its process and that of the step at work."""
    toys.hold("first")
    process = toys.start(*RUN)
    return process, toys.await_work("first")


def assert_goes_on(toys: Toys) -> None:
    toys.release("first")
    ended = toys.run(*RUN)
    assert ended.returncode == 0, ended.stderr
    assert toys.calls == ["first 1", "first 2", "second 1"]


def slow(*values: object) -> pytest.ParameterSet:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGINT, "group"),
        (signal.SIGTERM, "parent"),
        slow(signal.SIGINT, "parent"),
        slow(signal.SIGTERM, "group"),
        slow(signal.SIGHUP, "group"),
        slow(signal.SIGHUP, "parent"),
    ],
)
def test_a_stopped_run_ends_with_130_and_leaves_no_process(toys: Toys, number: signal.Signals, whom: str) -> None:
    process, child = start_held(toys)
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert not is_alive(child)
    assert "Traceback" not in stdout + stderr
    assert stderr.splitlines()[-1] == "first: interrupted; run it again to go on"
    assert "interrupted" in stdout.splitlines()[-2]
    assert_goes_on(toys)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_killed_run_leaves_no_process_and_the_next_run_goes_on(toys: Toys) -> None:
    process, child = start_held(toys)
    process.kill()
    process.wait()
    wait_until(lambda: not is_alive(child))
    assert_goes_on(toys)


def test_a_step_that_is_killed_is_one_line_and_leaves_nothing_of_its_group(toys: Toys) -> None:
    process, child = start_held(toys)
    os.kill(child, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == "yuan_data was ended by SIGKILL (is the memory full?); run it again to go on\n"
    assert_goes_on(toys)


def test_a_second_ctrl_c_ends_a_step_that_does_not_listen(toys: Toys) -> None:
    (toys.control / "first.stubborn").touch()
    process, child = start_held(toys)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    wait_until(lambda: "once more stops at once" in process.stderr.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not is_alive(child)


@pytest.mark.slow
def test_a_third_ctrl_c_kills_a_step_that_is_frozen(toys: Toys) -> None:
    process, child = start_held(toys)
    os.kill(child, signal.SIGSTOP)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "once more stops at once" in process.stderr.readline())
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not is_alive(child)


@pytest.mark.slow
def test_a_run_in_the_background_of_a_script_heeds_kill_int(toys: Toys) -> None:
    toys.hold("first")
    script = f"{sys.executable} -m {' '.join(RUN)} & echo $!; wait $!"
    shell = subprocess.Popen(
        ["sh", "-c", script],
        cwd=toys.folder,
        env=toys.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert shell.stdout is not None
    process = int(shell.stdout.readline())
    child = toys.await_work("first")
    os.kill(process, signal.SIGINT)
    shell.communicate(timeout=60)
    assert shell.returncode == 130
    assert not is_alive(child)


def test_what_a_step_leaves_behind_is_ended_with_it(toys: Toys) -> None:
    (toys.control / "first.litter").touch()
    ended = toys.yuan("run", "tokenizer.yaml")
    assert ended.returncode == 0
    wait_until(lambda: not is_alive(int((toys.control / "first.litter").read_text())))


@pytest.mark.slow
def test_ctrl_c_while_the_program_starts_shows_no_traceback(toys: Toys) -> None:
    # Before the entry point is called Python alone is at work, which shows one.
    script = "from yuan_cli.main import main; print('begins', flush=True); main()"
    for milliseconds in range(50, 550, 100):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *RUN[1:]],
            cwd=toys.folder,
            env=toys.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=milliseconds / 1000)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert "Traceback" not in stderr
