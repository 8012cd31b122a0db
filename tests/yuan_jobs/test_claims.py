"""One worker has a job at a time, and only while its counter moves; what others do to it has no effect."""

import pytest
from queue_toys import CAPACITY, LEASE_S, job, publish, take, tokenizer, worker

from yuan_jobs.claims import (
    claim_queued,
    desired_of,
    forget_worker,
    give_back,
    renew,
    report_idle,
    succeed_as,
    workers,
)
from yuan_jobs.control import cancel, step_aside
from yuan_jobs.queries import attempts
from yuan_jobs.reconciler import give_back_lost, unsent
from yuan_jobs.records import NewJob
from yuan_jobs.registry import Registry, StaleAttemptError
from yuan_jobs.states import AttemptOutcome, Desired, JobState
from yuan_jobs.submission import submit


@pytest.fixture
def queued(registry: Registry) -> str:
    return submit(registry, tokenizer())[0].id


def try_claim(registry: Registry, job_id: str, service: str = "data") -> object:
    return claim_queued(registry, job_id, worker(registry, service), lease_seconds=LEASE_S, capacity=CAPACITY)


def test_a_claimed_job_is_running_in_its_first_attempt(registry: Registry, queued: str) -> None:
    mine = worker(registry)
    claim = take(registry, queued, mine)
    record = job(registry, queued)
    assert (record.state, record.attempt, record.lease_owner, claim.before) == (JobState.RUNNING, 1, mine.id, None)
    assert [w.job_id for w in workers(registry)] == [queued]
    (attempt,) = attempts(registry, queued)
    assert (attempt.number, attempt.worker, attempt.version, attempt.outcome) == (1, mine.id, mine.version, None)


def test_a_second_delivery_claims_nothing(registry: Registry, queued: str) -> None:
    take(registry, queued, worker(registry))
    assert try_claim(registry, queued) is None
    assert job(registry, queued).attempt == 1


def test_messages_of_jobs_that_are_not_to_be_done_claim_nothing(registry: Registry, queued: str) -> None:
    assert try_claim(registry, "gone") is None
    assert try_claim(registry, queued, "trainer") is None
    cancel(registry, queued)
    assert try_claim(registry, queued) is None


def test_a_lease_is_renewed_by_its_owner_alone(registry: Registry, queued: str) -> None:
    mine = worker(registry)
    claim = take(registry, queued, mine)
    renew(registry, claim, mine)
    assert job(registry, queued).lease_counter == 1
    with pytest.raises(StaleAttemptError):
        renew(registry, claim, worker(registry))


def test_a_lost_job_is_queued_again_and_its_old_attempt_has_no_effect_any_more(registry: Registry, queued: str) -> None:
    mine = worker(registry)
    old = take(registry, queued, mine)
    give_back_lost(registry, old)
    assert (job(registry, queued).state, job(registry, queued).lost_attempts) == (JobState.QUEUED, 1)
    assert unsent(registry) == 2
    for write in (
        lambda: renew(registry, old, mine),
        lambda: publish(registry, old),
        lambda: registry.finish(old, JobState.FAILED),
        lambda: give_back(registry, old, "late"),
        lambda: give_back_lost(registry, old),
    ):
        with pytest.raises(StaleAttemptError):
            write()
    new = take(registry, queued, worker(registry))
    assert (new.attempt, desired_of(registry, old), desired_of(registry, new)) == (2, None, Desired.RUN)
    with pytest.raises(StaleAttemptError):
        publish(registry, old)
    publish(registry, new)
    assert [a.outcome for a in attempts(registry, queued)] == [AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED]


def test_a_job_that_loses_its_worker_three_times_has_failed(registry: Registry, queued: str) -> None:
    for _ in range(3):
        give_back_lost(registry, take(registry, queued, worker(registry)))
    record = job(registry, queued)
    assert (record.state, record.reason) == (JobState.FAILED, "its worker was lost 3 times")


def test_a_job_that_steps_aside_is_queued_again_uncounted(registry: Registry, queued: str) -> None:
    claim = take(registry, queued, worker(registry))
    step_aside(registry, queued)
    assert desired_of(registry, claim) == Desired.YIELD
    give_back(registry, claim, "asked to")
    record = job(registry, queued)
    assert (record.state, record.desired, record.lost_attempts) == (JobState.QUEUED, Desired.RUN, 0)
    again = take(registry, queued, worker(registry))
    assert again.before is not None
    assert again.before.reason == "asked to"


def test_a_cancelled_job_whose_worker_is_lost_is_not_done_again(registry: Registry, queued: str) -> None:
    claim = take(registry, queued, worker(registry))
    cancel(registry, queued)
    give_back_lost(registry, claim)
    assert job(registry, queued).state == JobState.CANCELLED


def test_what_was_done_before_is_taken_for_the_result(registry: Registry, queued: str) -> None:
    publish(registry, take(registry, queued, worker(registry)))
    second = submit(registry, tokenizer())[0].id
    succeed_as(registry, take(registry, second, worker(registry)), job(registry, queued))
    record = job(registry, second)
    assert (record.state, record.artifact) == (JobState.SUCCEEDED, "tokenizer/demo@1")
    assert record.result == {"words": 1, "reused_job": queued}


def test_the_foreground_leaves_jobs_of_workers_alone(registry: Registry, queued: str) -> None:
    claim = take(registry, queued, worker(registry))
    record = job(registry, queued)
    same = NewJob(record.kind, record.name, record.identity, record.recipe, {}, {})
    assert registry.claim(same).job_id != queued
    registry.finish(claim, JobState.FAILED, reason="because")


def test_a_worker_that_was_taken_for_dead_is_known_again(registry: Registry) -> None:
    mine = worker(registry)
    forget_worker(registry, mine.id)
    assert workers(registry) == []
    report_idle(registry, mine)
    assert [w.identity for w in workers(registry)] == [mine]
