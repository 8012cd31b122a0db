"""A service's command line, with real processes: what a user sees, and what is left however it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.machine import wait_until
from toy_home import Toys

from yuan_events import event_from_json
from yuan_jobs.states import JobState

RUN = ("yuan_data", "run", "tokenizer.yaml")


def job_of(toys: Toys):
    (folder,) = (toys.home / "runs").iterdir()
    return toys.store().registry.job(folder.name)


def test_a_job_is_run_and_says_what_it_made(toys: Toys) -> None:
    ended = toys.run(*RUN)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[:2] == ["step 1  loss 1.250", "first is done"]
    assert "first: made tokenizer/demo@1 (/" in ended.stdout
    assert "done before" in toys.run(*RUN).stdout
    assert toys.calls == ["first 1"]


def test_events_can_be_had_as_json_lines(toys: Toys) -> None:
    ended = toys.run(*RUN, "--json")
    types = [event_from_json(line).type for line in ended.stdout.splitlines()]
    assert types == ["metrics", "message", "message"]


def test_changed_text_makes_a_new_version(toys: Toys) -> None:
    toys.run(*RUN)
    (toys.folder / "a.txt").write_text("other text\n")
    assert "tokenizer/demo@2" in toys.run(*RUN).stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("run", "missing.yaml"), "missing.yaml"),
        (("run",), "name a manifest"),
        (("run", "tokenizer.yaml", "--forse"), "--forse"),
        (("run", "tokenizer.yaml", "tokenizer.vocab=3"), "vocab"),
        (("run", "generate.yaml"), "kind generate is not done by yuan_data, but tokenizer and tokenize"),
        (("rnu",), "no command 'rnu'; did you mean run?"),
        (("run", "tokenizer.yaml", "inputs.text=[b.txt]"), "inputs.text b.txt: no such file"),
        (("run", "tokenize.yaml"), "artifact tokenizer/demo does not exist"),
        (("run", "tokenizer.yaml", "-f", "nowhere.yaml"), "nowhere.yaml"),
        (("run", "tokenizer.yaml", "outputs.tokenizer=a b"), "a b"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(toys: Toys, arguments: tuple[str, ...], line: str) -> None:
    ended = toys.run("yuan_data", *arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert line in ended.stderr
    assert toys.calls == []


def test_work_that_refuses_its_input_ends_with_2_and_work_that_breaks_with_1(toys: Toys) -> None:
    (toys.control / "first.refuse").write_text("the prompt is too long")
    refused = toys.run(*RUN)
    assert (refused.returncode, refused.stderr) == (2, "the prompt is too long\n")
    (toys.control / "first.refuse").unlink()
    (toys.control / "first.fail").write_text("it broke")
    broken = toys.run(*RUN)
    assert broken.returncode == 1
    assert broken.stderr.startswith("first: ValueError: it broke (details: ")
    assert broken.stderr.count("\n") == 1


def test_a_killed_run_goes_on_where_it_was_and_leaves_nothing_half_made(toys: Toys) -> None:
    toys.hold("first")
    process = toys.start(*RUN)
    toys.await_work("first")
    wait_until(lambda: int((next((toys.home / "runs").iterdir()) / "turns").read_text() or "0") > 3)
    process.kill()
    process.wait()
    assert list((toys.home / "store").rglob("half.bin"))
    assert job_of(toys).state == JobState.RUNNING
    toys.release("first")
    ended = toys.run(*RUN)
    assert ended.returncode == 0
    job = job_of(toys)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    assert job.result["turns_before"] >= 3
    assert f"continues run {job.id}, which was interrupted (attempt 2)" in ended.stdout
    assert not list((toys.home / "store").rglob("half.bin"))
    assert toys.calls == ["first 1", "first 2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_asked_to_stop_ends_with_130_and_goes_on_later(toys: Toys, number: signal.Signals) -> None:
    toys.hold("first")
    process = toys.start(*RUN)
    toys.await_work("first")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "first: interrupted; run it again to go on"
    assert job_of(toys).state == JobState.CANCELLED
    toys.release("first")
    assert toys.run(*RUN).returncode == 0
    assert job_of(toys).attempt == 2


def test_a_second_ctrl_c_ends_work_that_does_not_listen(toys: Toys) -> None:
    toys.hold("first")
    (toys.control / "first.stubborn").touch()
    process = toys.start(*RUN)
    toys.await_work("first")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    wait_until(lambda: "once more stops at once" in process.stderr.readline())
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert job_of(toys).state == JobState.CANCELLED


def test_a_second_run_is_refused_while_the_first_goes_on(toys: Toys) -> None:
    toys.hold("first")
    first = toys.start(*RUN)
    toys.await_work("first")
    second = toys.run(*RUN)
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"is busy: first (process {first.pid})" in second.stderr
    toys.release("first")
    assert first.wait(timeout=60) == 0


def test_two_homes_at_once_do_not_disturb_each_other(toys: Toys, tmp_path: Path) -> None:
    other = Toys(tmp_path / "other")
    toys.hold("first")
    process = toys.start(*RUN)
    toys.await_work("first")
    assert other.run(*RUN).returncode == 0
    toys.release("first")
    assert process.wait(timeout=60) == 0
    assert toys.store().open_artifact("demo").version == other.store().open_artifact("demo").version == 1


def test_work_goes_on_when_nobody_reads_its_output_any_more(toys: Toys) -> None:
    toys.hold("first")
    process = toys.start(*RUN)
    toys.await_work("first")
    assert process.stdout is not None
    process.stdout.close()
    toys.release("first")
    assert process.wait(timeout=60) == 0
    assert toys.store().open_artifact("demo").version == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""


def test_an_error_that_nobody_foresaw_is_one_line_and_a_file_with_the_traceback(toys: Toys) -> None:
    script = "from yuan_jobs import service_main\nservice_main('data', {}, {'break': lambda rest: 1 // 0}, ['break'])"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=toys.environment,
        cwd=toys.folder,
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("ZeroDivisionError: ")
    log = Path(ended.stderr.partition("details: ")[2].strip().rstrip(")"))
    assert log.parent == toys.home / "logs"
    assert "Traceback" in log.read_text()


def test_the_parent_is_told_how_the_job_ended(toys: Toys) -> None:
    outcome = toys.folder / "outcome.json"
    toys.run(*RUN, "--outcome", str(outcome))
    told = json.loads(outcome.read_text())
    assert told == {
        "result": "tokenizer/demo@1",
        "reused": False,
        "job_id": job_of(toys).id,
        "nothing": False,
    }


def test_characters_that_the_locale_cannot_show_break_nothing(toys: Toys) -> None:
    (toys.control / "first.say").write_text("演示 is done", encoding="utf-8")
    environment = {**toys.environment, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", *RUN], env=environment, cwd=toys.folder, capture_output=True, check=False
    )
    assert ended.returncode == 0
    assert b"\\u6f14\\u793a is done" in ended.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_without_permission_is_one_line(toys: Toys) -> None:
    toys.home.mkdir()
    toys.home.chmod(0o555)
    ended = toys.run(*RUN)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
