"""A run that was stopped or killed goes on where its state ends, under whatever topology, with the same losses."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from yuan_checkpoint.training_state import finished_states, newest_whole_state
from yuan_events import Interrupted, WorkFailed
from yuan_trainer.specification import Specification

from .conftest import Runner


def stop_after(run: Runner, steps: int) -> Callable[[], bool]:
    return lambda: len(run.metric("loss")) >= steps


def running_ranks() -> list[psutil.Process]:
    """Returns the children of this process that are ranks and alive."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children():
        try:
            if "yuan_trainer.rank" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:  # ended, or ended and not yet waited for
            continue
    return found


def test_a_stopped_run_resumes_bit_for_bit(specification: Specification, run: Runner) -> None:
    whole = run(specification, stages=(1, 3))
    with pytest.raises(Interrupted, match="stopped after step"):
        run(specification, stop_after(run, 6), stages=(1, 3))
    before = run.losses
    state, _ = newest_whole_state(specification.state_root)
    assert state is not None
    assert state.step == max(before) < 20
    after = run(specification, stages=(1, 3), resume_from=state.folder)
    assert min(after) == state.step + 1
    assert before | after == whole


@pytest.mark.parametrize(
    ("stages", "replicas"),
    [
        ((3, 1), 1),
        pytest.param((1, 1, 2), 1, marks=pytest.mark.slow),
        pytest.param((4,), 2, marks=pytest.mark.slow),
    ],
    ids=["3 and 1", "three stages", "two replicas"],
)
def test_a_run_of_stages_1_and_3_goes_on_under_another_topology(
    specification: Specification, run: Runner, stages: tuple[int, ...], replicas: int
) -> None:
    whole = run(specification, stages=(1, 3), checkpoint_steps=10)
    state = finished_states(specification.state_root)[0]
    after = run(specification, stages=stages, replicas=replicas, resume_from=state)
    assert list(after) == list(range(11, 21))
    assert list(after.values()) == pytest.approx([whole[step] for step in after], abs=1e-5)


def test_a_killed_rank_ends_the_run_and_the_next_one_resumes_with_the_same_losses(
    specification: Specification, run: Runner
) -> None:
    whole = run(specification, stages=(1, 3))

    def kill_one_rank() -> bool:
        if len(run.metric("loss")) >= 12 and (ranks := running_ranks()):
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
from yuan_events import NullSink
from yuan_trainer.launcher import run_ranks
run_ranks(Path(sys.argv[1]), 2, device="cpu", logs=Path(sys.argv[2]), sink=NullSink(), should_stop=lambda: False)
"""
    parent = psutil.Popen([sys.executable, "-c", code, str(path), str(tmp_path / "logs")])
    ranks: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while len(ranks) < 2 and time.monotonic() < deadline:
        ranks = parent.children()
        time.sleep(0.1)
    time.sleep(3)
    assert len(ranks) == 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(ranks, timeout=30)
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
