"""Who has a task is judged by counters that move, on the watcher's own clock."""

from typing import NoReturn

import pytest
from queue_toys import LEASE_S, job, take, tokenizer, worker

from yuan_events import WorkFailed
from yuan_jobs.claims import renew, workers
from yuan_jobs.leases import CounterWatch, SharedLease
from yuan_jobs.queries import lease_holder
from yuan_jobs.reconciler import Reconciler
from yuan_jobs.registry import Registry
from yuan_jobs.states import JobState
from yuan_jobs.submission import submit
from yuan_manifest import load_cluster


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def lease(registry: Registry, owner: str, clock: Clock) -> SharedLease:
    return SharedLease(registry, "task", owner=owner, version="1", seconds=8, clock=clock)


def test_a_counter_counts_as_still_from_when_it_was_first_seen() -> None:
    clock = Clock()
    watch = CounterWatch(clock)
    watch.observe({"a": 1})
    clock.seconds += 5
    watch.observe({"a": 1, "b": 1})
    assert (watch.still_for("a"), watch.still_for("b"), watch.still_for("c")) == (5, 0, 0)
    watch.observe({"a": 2})
    assert watch.still_for("a") == 0


def test_a_task_has_one_holder(registry: Registry) -> None:
    clock = Clock()
    first, second = lease(registry, "first", clock), lease(registry, "second", clock)
    assert (first.held(), second.held()) == (True, False)
    for _ in range(10):
        clock.seconds += 3
        assert (first.held(), second.held()) == (True, False)


def test_a_task_is_taken_over_once_its_holder_is_still_for_the_lease(registry: Registry) -> None:
    clock = Clock()
    first, second = lease(registry, "first", clock), lease(registry, "second", clock)
    assert (first.held(), second.held()) == (True, False)
    clock.seconds += 7.9
    assert not second.held()
    clock.seconds += 0.2
    assert second.held()
    assert not first.held()
    assert lease_holder(registry, "task") == ("second", "1", 2)


def test_a_released_task_is_free_at_once(registry: Registry) -> None:
    clock = Clock()
    first, second = lease(registry, "first", clock), lease(registry, "second", clock)
    assert (first.held(), second.held()) == (True, False)
    first.release()
    assert lease_holder(registry, "task") is None
    assert second.held()


def test_a_job_is_lost_only_when_its_counter_stands_still_for_the_whole_lease(registry: Registry) -> None:
    clock = Clock()
    reconciler = Reconciler(registry, load_cluster(None, ["cluster.broker=redis://127.0.0.1:1"]), clock=clock)
    mine = worker(registry)
    job_id = submit(registry, tokenizer())[0].id
    claim = take(registry, job_id, mine)
    for _ in range(5):
        assert reconciler.tick()
        clock.seconds += 20
        renew(registry, claim, mine)
    assert reconciler.tick()
    clock.seconds += 29
    reconciler.tick()
    assert (job(registry, job_id).state, len(workers(registry))) == (JobState.RUNNING, 1)
    clock.seconds += 2
    reconciler.tick()
    assert (job(registry, job_id).state, workers(registry)) == (JobState.QUEUED, [])


def test_a_registry_that_could_not_be_written_costs_no_worker_its_job(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    reconciler = Reconciler(registry, load_cluster(None, ["cluster.broker=redis://127.0.0.1:1"]), clock=clock)
    mine = worker(registry)
    job_id = submit(registry, tokenizer())[0].id
    claim = take(registry, job_id, mine)
    reconciler.tick()

    def full() -> NoReturn:
        raise WorkFailed("registry: database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(registry.database, "writing", full)
        for _ in range(10):
            clock.seconds += LEASE_S / 2
            reconciler.tick()
    reconciler.tick()
    assert job(registry, job_id).state == JobState.RUNNING
    renew(registry, claim, mine)
    clock.seconds += LEASE_S + 1
    reconciler.tick()
    reconciler.tick()
    clock.seconds += LEASE_S + 1
    reconciler.tick()
    assert job(registry, job_id).state == JobState.QUEUED
