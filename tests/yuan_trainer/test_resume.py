"""A run that was stopped or killed goes on where its state ends, under whatever topology, with the same losses."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from yuan_checkpoint.training_state import finished_states, newest_whole_state
from yuan_events import Interrupted, WorkFailed
from yuan_manifest.schema import Precision
from yuan_trainer.specification import Specification

from .conftest import ForkingRunner, Runner
from .oracle import oracle_losses


def stop_after(run: Runner, steps: int) -> Callable[[], bool]:
    return lambda: len(run.metric("loss")) >= steps


def running_ranks() -> list[psutil.Process]:
    """Returns the children of this process that are ranks and alive, rank 0 first."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children():
        try:
            if "yuan_trainer.rank" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:  # ended, or ended and not yet waited for
            continue
    return sorted(found, key=lambda process: int(process.environ()["RANK"]))


def test_a_stopped_run_resumes_bit_for_bit(specification: Specification, run: Runner) -> None:
    # The run must be far from its end when the stop arrives, however busy the machine is.
    specification = replace(specification, train=replace(specification.train, steps=100))
    whole = run(specification, stages=(1, 3))
    with pytest.raises(Interrupted, match="stopped after step"):
        run(specification, stop_after(run, 6), stages=(1, 3))
    before = run.losses
    state, _ = newest_whole_state(specification.state_root)
    assert state is not None
    assert state.step == max(before) < 100
    after = run(specification, stages=(1, 3), resume_from=state.folder)
    assert min(after) == state.step + 1
    assert before | after == whole


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param({"stages": (1, 3), "replicas": 2}, id="pipeline 2, data 2"),
        pytest.param({"tensor": 2, "sequence": True}, id="tensor 2, sequence"),
        pytest.param({"replicas": 2, "zero_stage": 0}, id="ZeRO 0"),
        pytest.param({"replicas": 2, "zero_stage": 2}, id="ZeRO 2"),
        pytest.param({"replicas": 2, "zero_stage": 3}, id="ZeRO 3"),
        pytest.param({"stages": (1, 3), "train": {"precision": Precision.bf16}}, id="bf16"),
        pytest.param({"replicas": 2, "zero_stage": 3, "train": {"precision": Precision.bf16}}, id="ZeRO 3, bf16"),
    ],
)
@pytest.mark.slow
def test_the_same_topology_resumes_bit_for_bit_with_dropout(
    specification: Specification, quick_run: ForkingRunner, topology: dict[str, Any]
) -> None:
    train = {"hidden_dropout": 0.1, "attention_dropout": 0.1, **topology.pop("train", {})}
    specification = replace(specification, train=replace(specification.train, **train))
    whole = quick_run(specification, checkpoint_steps=10, **topology)
    state = finished_states(specification.state_root)[0]
    after = quick_run(specification, resume_from=state, **topology)
    assert list(after) == list(range(11, 21))
    assert after == {step: whole[step] for step in after}


def test_dropout_changes_what_is_learned(specification: Specification, quick_run: ForkingRunner) -> None:
    specification = replace(specification, train=replace(specification.train, steps=3))
    without = quick_run(specification)
    with_dropout = quick_run(specification, train=replace(specification.train, hidden_dropout=0.3))
    # By little, since fresh weights add little to the residual stream.
    assert all(without[step] != with_dropout[step] for step in without)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"stages": (1, 3)}, {"tensor": 2, "sequence": True}, id="pipeline 2 -> tensor 2"),
        *(
            pytest.param(before, after, id=name, marks=pytest.mark.slow)
            for name, before, after in (
                ("stages 1 and 3 -> 3 and 1", {"stages": (1, 3)}, {"stages": (3, 1)}),
                ("pipeline 2 -> pipeline 3", {"stages": (1, 3)}, {"stages": (1, 1, 2)}),
                ("pipeline 2 -> data 2", {"stages": (1, 3)}, {"replicas": 2}),
                ("data 2 -> tensor 2", {"replicas": 2}, {"tensor": 2}),
                ("2 ranks -> 4", {"stages": (1, 3)}, {"stages": (2, 2), "tensor": 2}),
                ("4 ranks -> 1", {"stages": (2, 2), "tensor": 2, "sequence": True}, {}),
                ("ZeRO 3 -> pipeline 2", {"replicas": 2, "zero_stage": 3}, {"stages": (1, 3)}),
                ("pipeline 2 -> ZeRO 3", {"stages": (1, 3)}, {"replicas": 2, "zero_stage": 3}),
                ("ZeRO 2 -> ZeRO 0", {"replicas": 2, "zero_stage": 2}, {"zero_stage": 0}),
                ("ZeRO 0 -> ZeRO 2", {"replicas": 2, "zero_stage": 0}, {"replicas": 2, "zero_stage": 2}),
            )
        ),
    ],
)
def test_a_run_goes_on_under_another_topology_on_the_same_trajectory(
    specification: Specification, quick_run: ForkingRunner, before: dict[str, Any], after: dict[str, Any]
) -> None:
    expected = oracle_losses(specification, 20)
    quick_run(specification, checkpoint_steps=10, **before)
    state = finished_states(specification.state_root)[0]
    resumed = quick_run(specification, resume_from=state, **after)
    assert list(resumed) == list(range(11, 21))
    assert list(resumed.values()) == pytest.approx(expected[10:], abs=1e-4)


def test_a_killed_rank_ends_the_run_and_the_next_one_resumes_with_the_same_losses(
    specification: Specification, run: Runner
) -> None:
    # The run must be far from its end when the rank is killed, however busy the machine is.
    specification = replace(specification, train=replace(specification.train, steps=60))
    whole = run(specification, stages=(1, 3))
    ranks: list[psutil.Process] = []

    def kill_one_rank() -> bool:
        if len(ranks) < 2:
            ranks[:] = running_ranks()
        elif len(run.metric("loss")) >= 12:
            ranks[-1].send_signal(signal.SIGKILL)
        return False

    with pytest.raises(WorkFailed, match="SIGKILL; the same command resumes from the last checkpoint"):
        run(specification, kill_one_rank, stages=(1, 3), checkpoint_steps=5)
    assert not running_ranks()
    state, _ = newest_whole_state(specification.state_root)
    assert state is not None
    after = run(specification, stages=(1, 3), resume_from=state.folder)
    assert after == {step: loss for step, loss in whole.items() if step > state.step}


def test_ranks_end_by_themselves_when_their_parent_is_killed(specification: Specification, tmp_path: Path) -> None:
    specification = replace(specification, stages=(1, 3), train=replace(specification.train, steps=100_000))
    path = tmp_path / "specification.json"
    specification.write(path)
    code = """
import sys
from pathlib import Path
from yuan_trainer.launcher import run_ranks

class Sink:
    def emit(self, event): print(event.type, flush=True)

run_ranks(Path(sys.argv[1]), 2, device="cpu", logs=Path(sys.argv[2]), sink=Sink(), should_stop=lambda: False)
"""
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "logs")]
    with psutil.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            while parent.stdout.readline() != "metrics\n":  # of the first step
                assert parent.poll() is None
            ranks = parent.children()
            assert len(ranks) == 2
        finally:
            parent.kill()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive


def test_a_damaged_newest_state_is_passed_over_with_its_reason(specification: Specification, run: Runner) -> None:
    run(specification, checkpoint_steps=5)
    newest, before = finished_states(specification.state_root)[:2]
    damaged = newest / "layer-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    state, passed_over = newest_whole_state(specification.state_root)
    assert state is not None
    assert state.folder == before
    assert len(passed_over) == 1
    assert "layer-00002.safetensors" in passed_over[0]


@pytest.mark.slow
def test_only_the_newest_states_are_kept(specification: Specification, run: Runner) -> None:
    run(specification, checkpoint_steps=4, checkpoint_keep=2)
    assert [folder.name for folder in finished_states(specification.state_root)] == ["step-00000016", "step-00000012"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk can only be mounted by root")
def test_a_full_disk_fails_the_run_with_its_reason_and_leaves_earlier_states_whole(
    specification: Specification, run: Runner, tmp_path: Path
) -> None:
    root = tmp_path / "small-disk"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(root)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting a small disk")
    try:
        with pytest.raises(WorkFailed, match=r"checkpoint of step \d+ could not be written: .*[Nn]o space left"):
            run(specification, stages=(1, 3), checkpoint_steps=4, checkpoint_keep=10, state_root=root)
        state, passed_over = newest_whole_state(root)
        assert state is not None
        assert not passed_over
    finally:
        subprocess.run(["umount", str(root)], check=True)
