"""Real ranks on two hosts of one machine: DeepSpeed's own runner over a remote shell, a real Slurm, pods' commands."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.machine import wait_until
from tests.yuan_trainer.conftest import Runner
from tests.yuan_trainer.hosts import Hosts, two_hosts
from yuan_checkpoint.training_state import newest_whole_state
from yuan_events import Interrupted, Message, Metrics, RecordingSink, WorkFailed
from yuan_manifest.schema import KubernetesSection, Launcher, Nodes, Parallel, SlurmSection, Topology
from yuan_trainer.launching import run_training
from yuan_trainer.specification import DatasetPart, Specification
from yuan_trainer.starters import write_note

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    with two_hosts(tmp_path) as hosts:
        monkeypatch.setenv("PATH", f"{hosts.programs}:{os.environ['PATH']}")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield hosts


@pytest.fixture
def runner(hosts: Hosts) -> None:
    if shutil.which("pdsh") is None:
        pytest.skip("DeepSpeed's runner needs pdsh, which is not installed")


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

    @property
    def messages(self) -> list[Message]:
        return [event for event in self.sink.events if isinstance(event, Message)]

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


@pytest.mark.usefixtures("runner")
def test_two_hosts_stop_at_a_state_go_on_and_come_to_what_one_host_comes_to(
    run: Runner, run_hosts: HostsRun, specification: Specification
) -> None:
    # A stop passes three processes that look every now and then: the run must be far from its end when it arrives.
    specification = replace(specification, train=replace(specification.train, steps=300))
    alone = run(specification, stages=(2, 2))
    with pytest.raises(Interrupted, match=r"^stopped after step \d+; the same command goes on from there$"):
        run_hosts(specification, lambda: len(run_hosts.losses) >= 3)
    state, damaged = newest_whole_state(run_hosts.folder / "checkpoints")
    assert state is not None
    assert damaged == []
    assert 3 <= state.step < specification.train.steps
    assert run_hosts(specification, resume_from=state.folder) == alone
    assert (specification.output / "model.safetensors.index.json").exists()
    assert not run_hosts.processes("yuan_trainer.host")


@pytest.mark.usefixtures("runner")
def test_the_end_of_one_hosts_agent_ends_the_other_hosts_ranks(
    hosts: Hosts, run_hosts: HostsRun, specification: Specification
) -> None:
    killed: list[psutil.Process] = []

    def kill_second() -> bool:
        if run_hosts.losses and not killed:
            agents = [p for p in run_hosts.processes("yuan_trainer.host") if p.environ().get("CROSS_RANK") == "1"]
            killed.extend(agent for agent in agents if "-c" not in agent.cmdline())
            killed[0].kill()
        return False

    train = replace(specification.train, steps=100_000)
    wanted = rf"^host 1 \({hosts.names[1]}\) ended without a word; the same command resumes from the last checkpoint"
    with pytest.raises(WorkFailed, match=wanted):
        run_hosts(specification, kill_second, train=train)
    assert killed
    assert not run_hosts.processes("yuan_trainer.rank")
    assert not run_hosts.processes("yuan_trainer.host")


def test_slurm_runs_both_hosts_and_cancels_what_a_killed_run_had_left(
    tmp_path: Path, hosts: Hosts, run_hosts: HostsRun, specification: Specification
) -> None:
    run_hosts.topology = replace(run_hosts.topology, launcher=Launcher.slurm, slurm=SlurmSection(time="0:10:00"))
    with hosts.slurm(tmp_path / "slurm"):
        left = hosts.slurm_says("sbatch", "--parsable", "--exclusive", "--nodes=2", "--wrap=sleep 600")
        (run_hosts.folder / "launch-1").mkdir()
        write_note(run_hosts.folder / "launch-1", {"launcher": "slurm", "job": left})
        losses = run_hosts(specification, train=replace(specification.train, steps=6))

        def states() -> list[str]:
            return hosts.slurm_says("squeue", "--noheader", "--states=all", "--sort=i", "--format=%i %T").splitlines()

        wait_until(lambda: not any("COMPLETING" in state for state in states()))
        assert states() == [f"{left} CANCELLED", f"{int(left) + 1} COMPLETED"]
    assert len(losses) == 6
    assert any(message.text.startswith(f"Slurm job {int(left) + 1}: ") for message in run_hosts.messages)


def test_a_slurm_job_that_waits_is_cancelled_when_the_run_is_asked_to_stop(
    tmp_path: Path, hosts: Hosts, run_hosts: HostsRun, specification: Specification
) -> None:
    run_hosts.topology = replace(run_hosts.topology, launcher=Launcher.slurm)
    with hosts.slurm(tmp_path / "slurm"):
        hosts.slurm_says("sbatch", "--parsable", "--exclusive", "--nodes=2", "--wrap=sleep 600")
        with pytest.raises(Interrupted, match=r"^stopped after step 0"):
            run_hosts(specification, lambda: any("PENDING" in e.text for e in run_hosts.messages))
        assert hosts.slurm_says("squeue", "--noheader", "--jobs=2", "--format=%T") in ("", "CANCELLED")


def test_a_trainjobs_pods_train_and_its_objects_are_deleted_afterwards(
    tmp_path: Path, hosts: Hosts, run_hosts: HostsRun, specification: Specification
) -> None:
    hosts.kubectl(tmp_path / "kubernetes")
    section = KubernetesSection(claim="yuan-home")
    run_hosts.topology = replace(run_hosts.topology, launcher=Launcher.kubernetes, kubernetes=section)
    output = run_hosts.folder / "output"
    data = run_hosts.folder.parents[1] / "store" / "dataset"
    shutil.copytree(specification.datasets[0].folder, data)
    losses = run_hosts(
        specification,
        train=replace(specification.train, steps=6),
        output=output,
        datasets=(DatasetPart(data, 1.0),),
    )
    assert len(losses) == 6
    assert (output / "model.safetensors.index.json").exists()
    assert (tmp_path / "kubernetes" / "deleted.json").exists()
