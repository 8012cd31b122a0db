"""Real ranks on two hosts of one machine, started by DeepSpeed's own runner over a remote shell."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.yuan_trainer.conftest import Runner
from tests.yuan_trainer.hosts import Hosts, two_hosts
from yuan_checkpoint.training_state import newest_whole_state
from yuan_events import Interrupted, Metrics, RecordingSink, WorkFailed
from yuan_manifest.schema import Launcher, Nodes, Parallel, Topology
from yuan_trainer.launching import run_training
from yuan_trainer.specification import Specification

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    if shutil.which("pdsh") is None:
        pytest.skip("DeepSpeed's runner needs pdsh")
    with two_hosts(tmp_path) as hosts:
        monkeypatch.setenv("PATH", f"{hosts.programs}:{os.environ['PATH']}")
        yield hosts


class HostsRun:
    """Runs specifications on two hosts, a pipeline stage on each."""

    def __init__(self, home: Path, hosts: Hosts) -> None:
        self.folder = home / "runs" / "tiny-0a1"
        self.folder.mkdir(parents=True)
        self.topology = Topology(
            launcher=Launcher.hostfile,
            hostfile=str(hosts.hostfile(home / "hostfile")),
            nodes=Nodes(count=2, devices=1),
            parallel=Parallel(pipeline=2),
        )
        self.sink = RecordingSink()

    def __call__(
        self, specification: Specification, should_stop: Callable[[], bool] = lambda: False, **changes: Any
    ) -> dict[int, float]:
        specification = replace(specification, stages=(2, 2), state_root=self.folder / "checkpoints", **changes)
        specification.output.mkdir(exist_ok=True)
        path = self.folder / "specification.json"
        specification.write(path)
        run_training(
            path,
            self.topology,
            2,
            name="tiny",
            run=self.folder,
            device="cpu",
            sink=self.sink,
            should_stop=should_stop,
        )
        return self.losses

    @property
    def losses(self) -> dict[int, float]:
        found = [event for event in self.sink.events if isinstance(event, Metrics) and "loss" in event.values]
        return {event.step: event.values["loss"] for event in found}

    def processes(self, word: str) -> list[psutil.Process]:
        """Returns processes of this run whose command has a word."""
        found = []
        for process in psutil.process_iter():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if word in line and any(str(self.folder) in part for part in line):
                found.append(process)
        return found


@pytest.fixture
def run_hosts(tmp_path: Path, hosts: Hosts) -> HostsRun:
    return HostsRun(tmp_path / "home", hosts)


def test_two_hosts_train_what_one_host_trains(run: Runner, run_hosts: HostsRun, specification: Specification) -> None:
    alone = run(specification, stages=(2, 2))
    there = run_hosts(specification)
    assert there == alone
    assert len(there) == specification.train.steps
    assert (specification.output / "model.safetensors.index.json").exists()
    assert not run_hosts.processes("yuan_trainer.host")


def test_the_end_of_one_hosts_agent_ends_the_other_hosts_ranks(
    run_hosts: HostsRun, specification: Specification
) -> None:
    killed: list[float] = []

    def kill_second() -> bool:
        if run_hosts.losses and not killed:
            second = [p for p in run_hosts.processes("yuan_trainer.host") if p.environ().get("CROSS_RANK") == "1"]
            next(p for p in second if p.cmdline()[1:3] == ["-u", "-m"]).kill()
            killed.append(time.monotonic())
        return False

    train = replace(specification.train, steps=100_000)
    with pytest.raises(WorkFailed, match=r"^host 1 \(.*\) ended without a word; the same command resumes"):
        run_hosts(specification, kill_second, train=train)
    assert killed
    assert not run_hosts.processes("yuan_trainer.rank")
    assert not run_hosts.processes("yuan_trainer.host")


def test_a_stop_on_two_hosts_leaves_a_state_from_which_both_go_on(
    run: Runner, run_hosts: HostsRun, specification: Specification
) -> None:
    alone = run(specification, stages=(2, 2))
    with pytest.raises(Interrupted, match=r"^stopped after step \d+; the same command goes on from there$"):
        run_hosts(specification, lambda: len(run_hosts.losses) >= 3)
    state, damaged = newest_whole_state(run_hosts.folder / "checkpoints")
    assert state is not None
    assert damaged == []
    assert 3 <= state.step < specification.train.steps
    run_hosts(specification, resume_from=state.folder)
    assert run_hosts.losses == pytest.approx(alone, abs=1e-6)
