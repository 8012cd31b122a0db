"""A function applied by several processes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from yuan_corpus.errors import TextError
from yuan_corpus.worker_processes import ordered_map
from yuan_events import Interrupted, WorkFailed

# Functions are at module level because workers, which are spawned, import them.


def start_squaring() -> Callable[[int], int]:
    return square


def square(number: int) -> int:
    if number == 13:
        raise TextError("thirteen is no text")
    if number == 14:
        raise ZeroDivisionError("fourteen")
    if number == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number * number


def start_failing() -> Callable[[int], int]:
    raise TextError("cannot start")


def start_sleeping() -> Callable[[int], int]:
    return sleep


def sleep(number: int) -> int:
    time.sleep(60)
    return number


@pytest.fixture(autouse=True)
def no_process_is_left(
    repository: Path, monkeypatch: pytest.MonkeyPatch, processes_left: Callable[[], list[str]]
) -> Iterator[None]:
    monkeypatch.syspath_prepend(repository)  # from which workers import this module
    yield
    assert processes_left() == []


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_come_in_the_items_order(workers: int) -> None:
    items = [*range(13), *range(20, 40)]

    assert list(ordered_map(start_squaring, items, workers)) == [item * item for item in items]


def test_nothing_gives_nothing() -> None:
    assert list(ordered_map(start_failing, [], 3)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_ours_comes_back_as_it_was(workers: int) -> None:
    with pytest.raises(TextError, match=r"^thirteen is no text$"):
        list(ordered_map(start_squaring, [1, 13, 2, 3], workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_at_the_start_comes_back_too(workers: int) -> None:
    with pytest.raises(TextError, match="cannot start"):
        list(ordered_map(start_failing, [1, 2], workers))


def test_an_unforeseen_error_in_a_worker_is_told_with_its_place() -> None:
    with pytest.raises(WorkFailed, match=r"ZeroDivisionError: fourteen \(.*test_worker_processes\.py:\d+\)"):
        list(ordered_map(start_squaring, [1, 14, 2], 2))


def test_a_worker_that_is_killed_fails_the_whole_with_a_hint() -> None:
    with pytest.raises(WorkFailed, match=r"worker process \d+ ended by signal 9; was the machine out of memory\?"):
        list(ordered_map(start_squaring, [1, 15, 2, 3], 2))


def test_a_map_that_nobody_reads_on_ends_its_processes() -> None:
    with closing(ordered_map(start_squaring, list(range(13)) * 20, 2)) as results:
        assert list(islice(results, 3)) == [0, 1, 4]


def test_asked_to_stop_it_does_not_wait_for_what_workers_do() -> None:
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(Interrupted):
        list(ordered_map(start_sleeping, [1, 2, 3], 2, should_stop))
