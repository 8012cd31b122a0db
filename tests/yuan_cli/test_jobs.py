"""Jobs of a stack as a user steers them: `yuan submit`, `jobs`, `show`, `logs`, `cancel`, `resume`, `wait`."""

import io
import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from job_stack import JobStack, job_id_of
from tests.machine import wait_until
from toy_home import Toys

from yuan_cli.app import run
from yuan_rpc import ensure_token_file


def fresh(name: str, *overrides: str) -> tuple[str, ...]:
    """Returns the arguments for a tokenizer job of that name, which makes a tokenizer of that name."""
    return ("tokenizer.yaml", f"name={name}", f"outputs.tokenizer={name}", *overrides)


def lines_of(text: str) -> list[dict[str, Any]]:
    """Reads JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def test_submit_prints_the_id_and_says_how_to_go_on(job_stack: JobStack) -> None:
    submitted = job_stack.yuan("submit", *fresh("plain"))
    job_id = job_id_of(submitted.stdout)
    assert submitted.stdout == f"{job_id}\n"
    assert submitted.stderr == f"plain: submitted as {job_id}; follow it with: yuan wait {job_id}\n"
    waited = job_stack.yuan("wait", job_id)
    assert (waited.returncode, waited.stderr) == (0, "")
    assert waited.stdout.splitlines() == ["step 1  loss 1.250", "plain is done", "plain: made tokenizer/plain@1"]
    assert job_stack.yuan("wait", "--quiet", "plain-").stdout == "plain: made tokenizer/plain@1\n"


@pytest.mark.slow
def test_a_watched_pipeline_shows_its_steps_and_a_table(job_stack: JobStack) -> None:
    ended = job_stack.yuan("submit", "pipeline.yaml", "--watch")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert [line for line in lines if line.startswith("[")] == ["[1/2] train", "[2/2] cut"]
    assert "train: first is done" in lines
    assert "cut: made dataset/demo@1" in lines
    assert [line.split()[:2] for line in lines[-4:-1]] == [
        ["step", "state"],
        ["train", "succeeded"],
        ["cut", "succeeded"],
    ]
    again = job_stack.yuan("submit", "pipeline.yaml", "--watch").stdout
    assert "train: done before, nothing has changed: tokenizer/demo@1" in again


def test_the_exit_code_follows_the_jobs_end(job_stack: JobStack) -> None:
    (job_stack.control / "sad.fail").write_text("of all things")
    failed = job_stack.yuan("submit", *fresh("sad"), "--watch")
    job_id = job_id_of(failed.stdout)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith(f"{job_id} failed: sad: ValueError: of all things")
    assert f"yuan resume {job_id}" in failed.stderr
    (job_stack.control / "sad.fail").unlink()
    resumed = job_stack.yuan("resume", job_id, "--watch")
    assert resumed.returncode == 0
    assert f"{job_id}: on the queue again, attempt 2" in resumed.stdout
    assert resumed.stdout.splitlines()[-1] == "sad: made tokenizer/sad@1"


@pytest.mark.slow
def test_a_cancelled_job_ends_its_watch_with_130(job_stack: JobStack) -> None:
    job_stack.hold("ended")
    watching = job_stack.start("yuan_cli.main", "submit", *fresh("ended"), "--watch")
    job_stack.await_work("ended")
    cancelled = job_stack.yuan("cancel", "ended-")
    assert "ends at its next safe point" in cancelled.stdout
    _, stderr = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert "cancelled by the user" in stderr
    assert stderr.count("\n") == 1
    job_stack.release("ended")


def test_ctrl_c_in_a_watch_leaves_the_job_at_work_and_says_so(job_stack: JobStack) -> None:
    job_stack.hold("left")
    watching = job_stack.start("yuan_cli.main", "submit", *fresh("left"), "--watch")
    job_stack.await_work("left")
    assert watching.stdout is not None
    job_id = job_id_of(watching.stdout.readline())
    wait_until((job_stack.home / "runs" / job_id / "turns").exists)
    watching.send_signal(signal.SIGINT)
    _, stderr = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert stderr == f"{job_id} goes on; follow it with: yuan wait {job_id}, end it with: yuan cancel {job_id}\n"
    assert json.loads(job_stack.yuan("show", job_id, "--json").stdout)["state"] == "RUNNING"
    job_stack.release("left")
    assert job_stack.yuan("wait", job_id).returncode == 0


@pytest.mark.slow
def test_json_is_one_document_or_a_line_an_event(job_stack: JobStack) -> None:
    (job_stack.control / "told.print").write_text("printed\n")
    watched = job_stack.yuan("submit", *fresh("told"), "--watch", "--json")
    first, *rest = lines_of(watched.stdout)
    assert (first["name"], first["reused"]) == ("told", False)
    assert [line["event"]["type"] for line in rest if "event" in line] == ["metrics", "message"]
    last = rest[-1]["job"]
    assert (last["state"], last["artifact"], last["recipe"]["name"]) == ("SUCCEEDED", "tokenizer/told@1", "told")
    assert lines_of(job_stack.yuan("logs", "told-", "--json").stdout) == [
        {"line": "printed", "source": "worker", "attempt": 1}
    ]
    assert job_stack.yuan("logs", "told-", "-f").stdout == "printed\n"
    listed = json.loads(job_stack.yuan("jobs", "--kind", "tokenizer", "--state", "succeeded", "--json").stdout)
    assert first["id"] in [job["id"] for job in listed]
    keyed = ("submit", *fresh("told"), "--idempotency-key", "one", "--json")
    once, twice = (json.loads(job_stack.yuan(*keyed).stdout) for _ in range(2))
    assert (once["id"], once["reused"], twice["reused"]) == (twice["id"], False, True)


@pytest.mark.slow
def test_show_knows_jobs_beside_artifacts(job_stack: JobStack) -> None:
    job_id = job_id_of(job_stack.yuan("submit", *fresh("shown"), "--watch").stdout)
    lines = [line.split() for line in job_stack.yuan("show", job_id).stdout.splitlines()]
    assert lines[0] == [job_id]
    assert ["state", "SUCCEEDED"] in lines
    assert ["made", "tokenizer/shown@1"] in lines
    assert ["vocab_size:", "8192"] in lines
    assert job_stack.yuan("show", "shown").stdout.startswith("tokenizer/shown@1\n")
    listed = job_stack.yuan("jobs").stdout
    assert f"{job_id}  tokenizer  SUCCEEDED" in listed


@pytest.mark.slow
def test_artifacts_of_a_stack_whose_home_is_elsewhere_come_from_its_servers(job_stack: JobStack) -> None:
    job_stack.yuan("submit", "pipeline.yaml", "--watch")
    cluster = json.loads(job_stack.cluster_file.read_text())
    cluster["cluster"] |= {
        "home": str(job_stack.folder / "afar"),
        "security": {"token_file": f"{job_stack.home}/token"},
    }
    (job_stack.folder / "afar.yaml").write_text(json.dumps(cluster))
    for command in (("artifacts", "--json"), ("show", "dataset/demo", "--json"), ("show", "dataset/demo")):
        here, afar = job_stack.yuan(*command), job_stack.yuan(*command, "-f", "afar.yaml")
        assert afar.returncode == 0, afar.stderr
        if "--json" in command:
            assert json.loads(afar.stdout) == json.loads(here.stdout)
    assert "--verify reads the files" in job_stack.yuan("show", "dataset/demo", "--verify", "-f", "afar.yaml").stderr
    assert "nowhere does not exist" in job_stack.yuan("show", "tokenizer/nowhere", "-f", "afar.yaml").stderr
    assert not (job_stack.folder / "afar").exists()


@pytest.mark.slow
def test_resume_takes_the_clusters_topology_of_now(job_stack: JobStack) -> None:
    (job_stack.control / "wide.fail").write_text("no")
    job_id = job_id_of(job_stack.yuan("submit", *fresh("wide"), "--watch").stdout)
    edited = str(job_stack.write_cluster({"nodes": {"devices": 8}}, "edited.yaml"))
    resumed = job_stack.yuan("resume", job_id, "-f", edited, "topology.parallel.zero_stage=0", "--json")
    assert resumed.returncode == 0, resumed.stderr
    nodes, parallel = (json.loads(resumed.stdout)["topology"][key] for key in ("nodes", "parallel"))
    assert (nodes["devices"], parallel["zero_stage"]) == (8, 0)
    job_stack.yuan("wait", job_id)
    wrong = job_stack.yuan("resume", job_id, "tokenizer.vocab_size=3")
    assert wrong.returncode == 2
    assert "tokenizer is no part of the topology" in wrong.stderr
    wrong = job_stack.yuan("resume", job_id, "topology.parallel.tensors=3")
    assert "did you mean topology.parallel.tensor?" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("submit", "tokenizr.yaml"), "tokenizr.yaml: no such file; did you mean tokenizer.yaml?"),
        (("submit", "tokenizer.yaml", "tokenizer.vocab_sze=3"), "did you mean tokenizer.vocab_size?"),
        (("submit", "tokenize.yaml", "inputs.tokenizer=nowhere"), "artifact tokenizer/nowhere does not exist"),
        (("submit", "generate.yaml"), "kind generate is not done on the queue of this stack"),
        (("jobs", "--state", "runing"), "no state 'runing'; expected one of WAITING, QUEUED, RUNNING"),
        (("jobs", "--kind", "tokenise"), "no kind 'tokenise'"),
        (("show", "nothing-1zz9"), "job nothing-1zz9 does not exist"),
        (("cancel", "nothing"), "job nothing does not exist; "),
        (("wait", "nothing"), "job nothing does not exist; "),
        (("logs", "nothing"), "job nothing does not exist; "),
        (("resume", "nothing"), "job nothing does not exist; "),
    ],
)
@pytest.mark.slow
def test_bad_input_is_one_line_and_exit_code_2(job_stack: JobStack, arguments: tuple[str, ...], line: str) -> None:
    ended = job_stack.yuan(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert line in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "tokenizer.yaml"),
        pytest.param(("jobs",), marks=pytest.mark.slow),
        pytest.param(("wait", "first"), marks=pytest.mark.slow),
    ],
)
def test_without_a_stack_one_line_names_the_command_that_starts_it(toys: Toys, arguments: tuple[str, ...]) -> None:
    assert "yuan up" in toys.yuan(*arguments).stderr
    ensure_token_file(toys.home / "token")
    (toys.folder / "down.yaml").write_text(
        "version: 1\ncluster: {services: {data: {port: 1}, trainer: null, converter: null, evaluator: null}}\n"
    )
    ended = toys.yuan(*arguments, "-f", "down.yaml")
    assert ended.returncode != 0
    assert ended.stderr == "nothing answers at 127.0.0.1:1 (data); start the stack with: yuan up\n"


def test_an_artifact_that_is_not_there_is_told_without_a_stack(toys: Toys) -> None:
    assert toys.yuan("show", "nothing").stderr.startswith("artifact nothing does not exist")


@pytest.mark.slow
def test_the_shell_completes_ids_of_jobs(job_stack: JobStack) -> None:
    job_id = job_id_of(job_stack.yuan("submit", *fresh("completed")).stdout)
    environment = {
        **job_stack.environment,
        "_YUAN_COMPLETE": "complete_bash",
        "COMP_WORDS": "yuan wait complet",
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-m", "yuan_cli.main"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=job_stack.folder)
    assert ended.stdout.split() == [job_id]


def test_two_jobs_are_compared_by_what_was_to_be_done_and_what_came_out(job_stack: JobStack) -> None:
    first, second = (
        job_id_of(job_stack.yuan("submit", *fresh(name, f"tokenizer.seed={seed}"), "--watch").stdout)
        for name, seed in (("compared-a", 1), ("compared-b", 2))
    )
    told = json.loads(job_stack.yuan("diff", first, second, "--json").stdout)
    assert {"key": "tokenizer.seed", "first": 1, "second": 2} in told["recipe"]
    assert told["topology"] == []
    shown = job_stack.yuan("diff", first, second)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "(+1, +100.0%)" in next(line for line in shown.stdout.splitlines() if "tokenizer.seed" in line)
    assert job_stack.yuan("diff", first, first).stdout == f"{first} and {first} differ in nothing\n"


def test_jobs_are_submitted_and_listed_by_priority_and_label(job_stack: JobStack) -> None:
    given = ("--priority", "4", "--label", "team=speech", "--label", "a.b=c")
    submitted = json.loads(job_stack.yuan("submit", *fresh("labelled"), *given, "--json").stdout)
    assert (submitted["priority"], submitted["labels"]) == (4, {"team": "speech", "a.b": "c"})
    listed = json.loads(job_stack.yuan("jobs", "--label", "team=speech", "--json").stdout)
    assert [one["id"] for one in listed] == [submitted["id"]]
    wrong = job_stack.yuan("jobs", "--label", "team")
    assert (wrong.returncode, wrong.stderr) == (2, "--label team: expected NAME=VALUE, as in --label team=speech\n")


def test_apply_shows_what_is_there_and_what_would_be_done_before_it_submits(job_stack: JobStack) -> None:
    nobody = job_stack.yuan("apply", *fresh("applied"))
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "add --yes" in nobody.stderr
    first = job_stack.yuan("apply", *fresh("applied"), "--yes", "--watch")
    assert first.returncode == 0, first.stderr
    assert "  applied: runs" in first.stdout
    again = job_stack.yuan("apply", *fresh("applied"), "--yes")
    assert (
        "tokenizer/applied@1 is there with this recipe and is not made anew, if its files have not changed"
        in again.stdout
    )
    other = job_stack.yuan("apply", *fresh("applied", "tokenizer.seed=77"), "--yes")
    assert "  applied: runs" in other.stdout


def test_apply_submits_what_it_has_shown_though_the_file_changes_while_it_asks(
    job_stack: JobStack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = job_stack.folder / "asked.yaml"
    text = "version: 1\nkind: tokenizer\nname: {}\ninputs: {{text: [a.txt]}}\noutputs: {{tokenizer: asked}}\n"
    file.write_text(text.format("shown"))
    monkeypatch.setenv("YUAN_CLUSTER", str(job_stack.cluster_file))
    monkeypatch.setattr("sys.stdin", TerminalInput())
    monkeypatch.setattr("typer.confirm", lambda question: bool(file.write_text(text.format("changed"))))
    assert run(["apply", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("shown-")


class TerminalInput(io.StringIO):
    """Somebody who could be asked."""

    def isatty(self) -> bool:
        return True


def test_a_schedule_is_made_listed_and_ended(job_stack: JobStack) -> None:
    made = job_stack.yuan(
        "schedule", *fresh("monthly"), "scheduling.cron=0 3 1 * *", "scheduling.timezone=Asia/Shanghai"
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("monthly: runs first at ")
    (listed,) = json.loads(job_stack.yuan("schedules", "--json").stdout)
    assert (listed["name"], listed["cron"], listed["timezone"]) == ("monthly", "0 3 1 * *", "Asia/Shanghai")
    without = job_stack.yuan("schedule", *fresh("monthly"))
    assert (without.returncode, without.stderr.count("\n")) == (2, 1)
    assert "scheduling.cron: missing" in without.stderr
    hook = job_stack.yuan("submit", *fresh("told"), "scheduling.notify=[http://10.0.0.1/x]")
    assert hook.returncode == 2
    assert "host 10.0.0.1 is not among cluster.security.webhook_hosts (none)" in hook.stderr
    assert job_stack.yuan("unschedule", "monthly").stdout == "monthly: recurs no more\n"
    gone = job_stack.yuan("unschedule", "monthly")
    assert (gone.returncode, gone.stderr) == (
        2,
        "schedule monthly does not exist; `yuan schedules` lists those that do\n",
    )
