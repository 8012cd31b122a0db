"""A function applied by several processes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from yuan_corpus.errors import TextError
from yuan_corpus.worker_lane import SLOT_BYTES
from yuan_corpus.worker_processes import ordered_map
from yuan_events import Interrupted, WorkFailed

# Functions are at module level because workers, which are programs of their own, import them. This process works, too.


def start_squaring() -> Callable[[int], int]:
    return square


def square(number: int) -> int:
    if number == 13:
        raise TextError("thirteen is no text")
    if number == 14:
        raise ZeroDivisionError("fourteen")
    time.sleep(0.02 if number % 3 == 0 else 0)
    return number * number


def start_failing() -> Callable[[int], int]:
    raise TextError("cannot start")


def start_elsewhere(here: int, act: Callable[[], None]) -> Callable[[int], int]:
    """Returns a function that does something in other processes only."""
    return partial(elsewhere, here, act)


def elsewhere(here: int, act: Callable[[], None], number: int) -> int:
    if os.getpid() != here:
        act()
    return number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep() -> None:
    time.sleep(60)


def start_doubling() -> Callable[[bytes], bytes]:
    return double


def double(data: bytes) -> bytes:
    return data + data


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


@pytest.mark.parametrize("items", [[14, 1, 2], [1, 14, 2]])  # the first is given away, the second is done here
def test_an_unforeseen_error_is_told_with_its_place(items: list[int]) -> None:
    with pytest.raises(WorkFailed, match=r"ZeroDivisionError: fourteen \(.*test_worker_processes\.py:\d+\)"):
        list(ordered_map(start_squaring, items, 2))


def test_a_worker_that_is_killed_fails_the_whole_with_a_hint() -> None:
    with pytest.raises(WorkFailed, match=r"worker process \d+ ended by signal 9; was the machine out of memory\?"):
        list(ordered_map(partial(start_elsewhere, os.getpid(), die), [1, 2, 3, 4], 2))


def test_a_map_that_nobody_reads_on_ends_its_processes() -> None:
    with closing(ordered_map(start_squaring, list(range(13)) * 20, 2)) as results:
        assert list(islice(results, 3)) == [0, 1, 4]


def test_asked_to_stop_it_does_not_wait_for_what_workers_do() -> None:
    asked: list[bool] = []

    def should_stop() -> bool:
        asked.append(True)
        return len(asked) > 5

    with pytest.raises(Interrupted):
        list(ordered_map(partial(start_elsewhere, os.getpid(), sleep), [1, 2, 3], 2, should_stop))


@pytest.mark.parametrize("items", [[1, 2, 3], range(40)])
def test_items_that_are_made_on_the_way_run_only_a_little_ahead(items: list[int]) -> None:
    taken: list[int] = []

    def source() -> Iterator[int]:
        for item in items:
            taken.append(item)
            yield item

    for number, result in enumerate(ordered_map(start_squaring, (item + 20 for item in source()), 2)):
        assert result == (items[number] + 20) ** 2
        assert len(taken) - number <= 10


def test_messages_longer_than_memory_has_slots_for_come_through_among_short_ones() -> None:
    sizes = [1, SLOT_BYTES + 1, 7, 3 * SLOT_BYTES // 4, SLOT_BYTES // 4, 2 * SLOT_BYTES, 0, SLOT_BYTES, 5, 70_000] * 2
    items = (bytes([number]) * size for number, size in enumerate(sizes))

    results = list(ordered_map(start_doubling, items, 3))

    assert [len(result) for result in results] == [2 * size for size in sizes]
    assert all(set(result) <= {number} for number, result in enumerate(results))
