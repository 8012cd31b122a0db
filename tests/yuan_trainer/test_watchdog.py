"""A step that hangs ends the run with every rank's stack; ranks that are slow are named."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from yuan_events import AttemptLost
from yuan_trainer.metrics import SlowRanks
from yuan_trainer.specification import Specification

from .conftest import Runner
from .test_resume import running_ranks


@pytest.mark.slow
def test_a_hung_step_ends_the_run_and_says_where_its_ranks_stood(
    specification: Specification, run: Runner, tmp_path: Path
) -> None:
    train = replace(specification.train, steps=100_000, step_timeout_seconds=6)
    stopped: list[int] = []

    def stop_second_rank() -> bool:
        if len(run.metric("loss")) >= 3 and not stopped and (ranks := running_ranks()):
            ranks[-1].send_signal(signal.SIGSTOP)
            stopped.append(ranks[-1].pid)
        return False

    with pytest.raises(AttemptLost, match=r"rank 0: step \d+ has hung for 6 s \(train.step_timeout_seconds\)") as hung:
        run(specification, stop_second_rank, stages=(1, 3), train=train)
    assert "\n" not in str(hung.value)
    assert not running_ranks()
    log = (tmp_path / "logs" / "rank-0.log").read_text()
    assert "has taken longer than 6 s; where its threads stand:" in log
    assert "train_step" in log


def test_a_rank_that_becomes_slow_is_named_once() -> None:
    slow = SlowRanks(window=2)
    told = [slow.add(seconds) for seconds in [(0.01, 0.01, 0.011, 0.02)] * 4]
    assert [bool(line) for line in told] == [False, True, False, False]
    assert told[1].startswith(
        "slow over the last 2 steps: rank 3 takes 20.00 ms a block, 2.0 times the median of 10.00 ms"
    )


def test_of_two_ranks_the_slower_one_can_be_named() -> None:
    assert "rank 1" in SlowRanks(window=1).add([0.01, 0.016])
    assert not SlowRanks(window=1).add([0.01, 0.0149])
