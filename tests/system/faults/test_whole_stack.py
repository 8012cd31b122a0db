"""`yuan up` as a user has it, with a real training: servers, ranks and whole workers are killed under it."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.machine import free_ports, wait_until
from tests.system.conftest import User, check_nothing_is_left, new_user

from yuan_checkpoint.training_state import STATE_FILE, finished_states
from yuan_jobs.queries import children, get_job
from yuan_jobs.records import JobRecord
from yuan_jobs.registry import Registry
from yuan_jobs.states import JobState

pytestmark = pytest.mark.slow

SERVICES = ("data", "trainer", "converter", "evaluator", "inference", "gateway")
PATIENCE_S = 180.0
STEPS = 80  # far from their end when a process is killed, however busy the machine is
LEASE_S = 10
PIPELINE = """
version: 1
kind: pipeline
name: made
steps:
  tokenizer: {manifest: tokenizer.yaml}
  tokenize: {manifest: tokenize.yaml, needs: [tokenizer]}
  pretrain: {manifest: pretrain.yaml, needs: [tokenizer, tokenize]}
"""


class Stack:
    """A user's stack."""

    def __init__(self, user: User) -> None:
        self.user = user
        ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        workers = {name: int(name not in {"inference", "gateway"}) for name in ports}
        services = ", ".join(f"{name}: {{port: {port}, workers: {workers[name]}}}" for name, port in ports.items())
        (user.folder / "stack.yaml").write_text(
            f"version: 1\ncluster: {{home: {user.home}, lease_seconds: {LEASE_S}, services: {{{services}}}}}\n"
            "topology: {nodes: {devices: 2, device: cpu}}\n"
        )
        (user.folder / "pipeline.yaml").write_text(PIPELINE)
        user.environment["YUAN_CLUSTER"] = str(user.folder / "stack.yaml")

    def processes(self) -> dict[str, dict[str, Any]]:
        """Returns what its supervisor tells of each process."""
        state = json.loads((self.user.home / "stack" / "state.json").read_text())
        return {record["name"]: record for record in state["processes"]}

    def jobs(self, job_id: str) -> list[JobRecord]:
        """Returns a job as it stands, and its steps."""
        registry = Registry.open(f"sqlite:///{self.user.home / 'registry.db'}")
        try:
            return [get_job(registry, job_id), *children(registry, job_id)]
        finally:
            registry.close()

    def submit(self, manifest: str, *overrides: str) -> str:
        """Submits a manifest; returns the job's id."""
        return self.user.does("submit", manifest, *overrides).splitlines()[-1]

    def states(self, job_id: str) -> Path:
        """Returns the folder of a training's checkpoints."""
        return self.user.home / "runs" / job_id / "checkpoints"

    def losses(self, job_id: str, attempt: int) -> dict[int, float]:
        """Returns the losses that an attempt told, by step."""
        journal = self.user.home / "runs" / job_id / f"attempt-{attempt}" / "events.jsonl"
        events = [json.loads(line)["event"] for line in journal.read_text().splitlines()] if journal.exists() else []
        return {e["step"]: e["values"]["loss"] for e in events if e["type"] == "metrics" and "loss" in e["values"]}

    def trainer(self) -> psutil.Process:
        """Returns the trainer's worker."""
        return psutil.Process(self.processes()["trainer-worker-1"]["pid"])

    def ranks(self) -> list[psutil.Process]:
        """Returns the ranks that it runs."""
        found: list[psutil.Process] = []
        for process in self.trainer().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "yuan_trainer.rank" in process.cmdline():
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of all services that is up; it ends, with all of its processes, after the last test."""
    user = new_user(tmp_path_factory.mktemp("whole"))
    made = Stack(user)
    try:
        user.does("up", "--detach")
        yield made
    finally:
        user.types("down")
        check_nothing_is_left(user)


@pytest.fixture(scope="module")
def training(stack: Stack) -> Callable[[str], str]:
    """Submits a training of a name with a checkpoint after each step, of what the pipeline of the first test made."""

    def submit(name: str) -> str:
        return stack.submit(
            "pretrain.yaml", f"name={name}", f"train.steps={STEPS}", "checkpoint.every_steps=1", "evaluation.samples=2"
        )

    return submit


def test_every_server_of_a_stack_may_be_killed_and_the_pipeline_goes_on(stack: Stack) -> None:
    job_id = stack.submit("pipeline.yaml")
    before = {name: stack.processes()[f"{name}-server"]["pid"] for name in SERVICES}
    for name, pid in before.items():
        psutil.Process(pid).send_signal(signal.SIGKILL)

        def is_back(name: str = name, pid: int = pid) -> bool:
            record = stack.processes()[f"{name}-server"]
            return record["state"] == "up" and record["pid"] != pid

        wait_until(is_back, PATIENCE_S)
    stack.user.does("wait", job_id, "--quiet")
    _, *steps = stack.jobs(job_id)
    assert [(step.state, step.attempt) for step in steps] == [(JobState.SUCCEEDED, 1)] * 3


def test_a_killed_rank_costs_an_attempt_and_no_job(stack: Stack, training: Callable[[str], str]) -> None:
    job_id = training("killed-rank")
    wait_until(lambda: len(stack.losses(job_id, 1)) >= 3, PATIENCE_S)
    stack.ranks()[-1].kill()
    stack.user.does("wait", job_id, "--quiet")
    (job,) = stack.jobs(job_id)
    assert (job.state, job.attempt, job.lost_attempts) == (JobState.SUCCEEDED, 2, 1)
    assert max(stack.losses(job_id, 2)) == STEPS


def test_a_worker_tree_killed_in_mid_checkpoint_resumes_before_a_state_that_was_damaged(
    stack: Stack, training: Callable[[str], str]
) -> None:
    job_id = training("torn")
    folder = stack.states(job_id)
    wait_until(lambda: len(finished_states(folder)) >= 2, PATIENCE_S)
    worker = stack.trainer()
    family = [worker, *worker.children(recursive=True)]

    def is_torn() -> bool:
        """Stops all of them as a state is begun, and says whether it was not finished."""
        names = {path.name for path in folder.iterdir()}
        newest = folder / max(names)
        if (newest / STATE_FILE).exists():
            return False
        for process in family:
            process.suspend()
        if not (newest / STATE_FILE).exists() and len(finished_states(folder)) >= 2:
            return True
        for process in family:
            process.resume()
        return False

    deadline = time.monotonic() + PATIENCE_S
    while not is_torn():
        assert time.monotonic() < deadline, "no state was seen half-written"
        assert worker.is_running()
    for process in family:
        process.kill()
    psutil.wait_procs(family, timeout=30)
    newest, before = finished_states(folder)[:2]
    damaged = newest / "layer-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")

    stack.user.does("wait", job_id, "--quiet")
    (job,) = stack.jobs(job_id)
    assert (job.state, job.attempt, job.lost_attempts) == (JobState.SUCCEEDED, 2, 1)
    told, again = stack.losses(job_id, 1), stack.losses(job_id, 2)
    assert list(again) == list(range(int(before.name.removeprefix("step-")) + 1, STEPS + 1))
    both = told.keys() & again.keys()
    assert both
    assert {step: told[step] for step in both} == {step: again[step] for step in both}
