"""A step that hangs ends the run with every rank's stack; ranks that are slow are named."""

import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import psutil
import pytest

from yuan_events import AttemptLost
from yuan_trainer.link import ParentLink
from yuan_trainer.metrics import SlowRanks
from yuan_trainer.specification import Specification
from yuan_trainer.watchdog import Watchdog

from .conftest import Runner
from .test_resume import running_ranks


@pytest.mark.slow
def test_a_hung_step_ends_the_run_and_says_where_its_ranks_stood(
    specification: Specification, run: Runner, tmp_path: Path
) -> None:
    train = replace(specification.train, steps=100_000, step_timeout_seconds=8)
    stopped: list[int] = []

    def stop_second_rank() -> bool:
        if len(run.metric("loss")) >= 3 and not stopped and (ranks := running_ranks()):
            ranks[-1].send_signal(signal.SIGSTOP)
            stopped.append(ranks[-1].pid)
        return False

    with pytest.raises(AttemptLost, match=r"rank 0: step \d+ has hung for 8 s \(train.step_timeout_seconds\)") as hung:
        run(specification, stop_second_rank, stages=(1, 3), train=train)
    assert "\n" not in str(hung.value)
    assert not running_ranks()
    log = (tmp_path / "logs" / "rank-0.log").read_text()
    assert "has taken longer than 8 s; where its threads stand:" in log
    assert "train_step" in log


@pytest.mark.slow
def test_a_validation_that_hangs_ends_the_run_too(specification: Specification, run: Runner, tmp_path: Path) -> None:
    train = replace(specification.train, step_timeout_seconds=3)
    samples = 10 * train.global_batch_size
    told = ""
    # A rank that is stopped just after a step is in the validation behind it, or, if this machine is slow, beyond.
    for _ in range(12):
        ranks: list[psutil.Process] = []

        def stop_second_rank(ranks: list[psutil.Process] = ranks) -> bool:
            if len(ranks) < 2:
                ranks[:] = running_ranks()
            elif run.metric("loss"):
                ranks[-1].send_signal(signal.SIGSTOP)
            return False

        with pytest.raises(AttemptLost) as hung:
            run(
                specification,
                stop_second_rank,
                validation_steps=1,
                validation_samples=samples,
                stages=(1, 3),
                train=train,
            )
        told = str(hung.value)
        if "validation" in told:
            break
    assert re.match(r"rank 0: validation after step \d+ has hung for 30 s \(train\.step_timeout_seconds\)", told)
    assert not running_ranks()
    assert "evaluate" in (tmp_path / "logs" / "rank-0.log").read_text()


def test_what_is_watched_may_take_as_long_as_its_samples_do(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []
    ended = threading.Event()

    def give_up(_dog: Watchdog, what: str, seconds: int) -> None:
        told.append((what, seconds))
        ended.set()
        threading.Event().wait()  # in the watchdog's own thread, as its real end never returns

    monkeypatch.setattr(Watchdog, "_give_up", give_up)
    dog = Watchdog(cast("ParentLink", None), 1)
    dog.begin("step 1")
    dog.end()
    dog.begin("validation after step 1", steps=2)
    assert ended.wait(60)
    assert told == [("validation after step 1", 2)]


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
