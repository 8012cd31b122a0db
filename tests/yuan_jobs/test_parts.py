"""A job that is handed out in parts waits for them without a worker, and ends as they do."""

import pytest
from queue_toys import job, pipeline, publish, steps, take, tokenizer, worker

from yuan_jobs.control import WrongJobState, cancel, resume
from yuan_jobs.parts import advance_parts, hand_out
from yuan_jobs.pipelines import advance_pipelines
from yuan_jobs.queries import list_jobs
from yuan_jobs.reconciler import MOST_LOST, give_back_lost, unsent
from yuan_jobs.records import JobRecord
from yuan_jobs.registry import Registry, StaleAttemptError
from yuan_jobs.states import Desired, JobState
from yuan_jobs.submission import submit

PARTS = ["part-0", "part-1", "part-2"]


@pytest.fixture
def divided(registry: Registry) -> str:
    job_id = submit(registry, tokenizer())[0].id
    hand_out(registry, take(registry, job_id, worker(registry)), PARTS)
    return job_id


def succeed(registry: Registry, part: JobRecord) -> None:
    registry.finish(take(registry, part.id, worker(registry)), JobState.SUCCEEDED, result={})


def fail(registry: Registry, part: JobRecord, reason: str = "broken") -> None:
    registry.finish(take(registry, part.id, worker(registry)), JobState.FAILED, reason=reason)


def test_the_job_waits_and_its_parts_are_queued_with_its_manifest(registry: Registry, divided: str) -> None:
    parent, parts = job(registry, divided), steps(registry, divided)
    assert (parent.state, parent.lease_owner, parent.reason) == (JobState.WAITING, None, "0 of its 3 parts are done")
    assert sorted(parts) == PARTS
    for part in parts.values():
        assert (part.state, part.kind, part.manifest) == (JobState.QUEUED, parent.kind, parent.manifest)
        assert (part.queue, part.folder) == (parent.queue, parent.folder)
    assert unsent(registry) == 1 + len(PARTS)
    assert [one.id for one in list_jobs(registry).jobs] == [divided]


def test_it_is_queued_again_once_all_parts_are_done_and_then_publishes(registry: Registry, divided: str) -> None:
    for done, part in enumerate(steps(registry, divided).values()):
        advance_parts(registry)
        assert job(registry, divided).reason == f"{done} of its 3 parts are done"
        assert job(registry, divided).state == JobState.WAITING
        succeed(registry, part)
    advance_parts(registry)
    advance_parts(registry)
    assert job(registry, divided).state == JobState.QUEUED
    assert unsent(registry) == 2 + len(PARTS)
    publish(registry, take(registry, divided, worker(registry)))
    assert job(registry, divided).state == JobState.SUCCEEDED


def test_a_lost_worker_costs_its_part_alone(registry: Registry, divided: str) -> None:
    first, second, _ = steps(registry, divided).values()
    succeed(registry, first)
    give_back_lost(registry, take(registry, second.id, worker(registry)))
    advance_parts(registry)
    states = [part.state for part in steps(registry, divided).values()]
    assert states == [JobState.SUCCEEDED, JobState.QUEUED, JobState.QUEUED]
    assert (job(registry, divided).state, job(registry, divided).lost_attempts) == (JobState.WAITING, 0)


def test_a_part_that_fails_ends_the_job_and_the_parts_that_have_not_begun(registry: Registry, divided: str) -> None:
    first, second, third = steps(registry, divided).values()
    running = take(registry, third.id, worker(registry))
    fail(registry, first)
    advance_parts(registry)
    assert job(registry, divided).state == JobState.WAITING
    assert job(registry, second.id).state == JobState.CANCELLED
    assert job(registry, third.id).desired == Desired.CANCEL
    registry.finish(running, JobState.CANCELLED)
    advance_parts(registry)
    assert job(registry, divided).state == JobState.FAILED
    assert job(registry, divided).reason == "part part-0: broken"


def test_resuming_hands_out_only_what_is_named_again(registry: Registry, divided: str) -> None:
    first, second, third = steps(registry, divided).values()
    succeed(registry, first)
    fail(registry, second)
    advance_parts(registry)
    with pytest.raises(WrongJobState, match=f"is a part of job {divided}; resume that one"):
        resume(registry, second.id)
    resume(registry, divided)
    hand_out(registry, take(registry, divided, worker(registry)), [second.step, third.step])
    assert job(registry, divided).reason == "0 of its 2 parts are done"
    assert [part.state for part in steps(registry, divided).values()] == [
        JobState.SUCCEEDED, JobState.QUEUED, JobState.QUEUED,
    ]  # fmt: skip
    assert job(registry, second.id).reason is None
    for part in (second, third):
        succeed(registry, part)
    advance_parts(registry)
    assert job(registry, divided).state == JobState.QUEUED


def test_a_part_that_is_named_though_it_is_done_is_done_anew(registry: Registry, divided: str) -> None:
    for part in steps(registry, divided).values():
        succeed(registry, part)
    advance_parts(registry)
    hand_out(registry, take(registry, divided, worker(registry)), ["part-1"])
    advance_parts(registry)
    assert steps(registry, divided)["part-1"].state == JobState.QUEUED
    assert job(registry, divided).state == JobState.WAITING


def test_a_part_whose_workers_are_lost_again_and_again_fails_the_job(registry: Registry, divided: str) -> None:
    (first, *_) = steps(registry, divided).values()
    for _ in range(MOST_LOST):
        give_back_lost(registry, take(registry, first.id, worker(registry)))
    advance_parts(registry)
    assert job(registry, divided).state == JobState.FAILED
    assert "its worker was lost 3 times" in (job(registry, divided).reason or "")


def test_cancelling_ends_the_job_and_its_parts(registry: Registry, divided: str) -> None:
    (first, second, _) = steps(registry, divided).values()
    running = take(registry, first.id, worker(registry))
    cancel(registry, divided)
    assert job(registry, divided).state == JobState.CANCELLED
    assert job(registry, second.id).state == JobState.CANCELLED
    assert job(registry, first.id).desired == Desired.CANCEL
    registry.finish(running, JobState.CANCELLED)
    advance_parts(registry)
    assert job(registry, divided).state == JobState.CANCELLED


def test_a_job_that_was_cancelled_meanwhile_hands_nothing_out(registry: Registry) -> None:
    job_id = submit(registry, tokenizer())[0].id
    claim = take(registry, job_id, worker(registry))
    cancel(registry, job_id)
    hand_out(registry, claim, PARTS)
    assert job(registry, job_id).state == JobState.CANCELLED
    assert steps(registry, job_id) == {}


def test_an_attempt_that_is_not_the_current_one_hands_nothing_out(registry: Registry) -> None:
    job_id = submit(registry, tokenizer())[0].id
    claim = take(registry, job_id, worker(registry))
    give_back_lost(registry, claim)
    with pytest.raises(StaleAttemptError):
        hand_out(registry, claim, PARTS)
    assert steps(registry, job_id) == {}


def test_a_pipelines_step_may_be_divided(registry: Registry) -> None:
    pipeline_id = submit(registry, pipeline())[0].id
    train = steps(registry, pipeline_id)["train"]
    hand_out(registry, take(registry, train.id, worker(registry)), PARTS)
    for part in steps(registry, train.id).values():
        advance_pipelines(registry)
        assert steps(registry, pipeline_id)["train"].state == JobState.WAITING
        succeed(registry, part)
    advance_parts(registry)
    publish(registry, take(registry, train.id, worker(registry)))
    advance_pipelines(registry)
    assert steps(registry, pipeline_id)["cut"].state == JobState.QUEUED


def test_cancelling_a_pipeline_ends_the_parts_of_its_steps(registry: Registry) -> None:
    pipeline_id = submit(registry, pipeline())[0].id
    train = steps(registry, pipeline_id)["train"]
    hand_out(registry, take(registry, train.id, worker(registry)), PARTS)
    cancel(registry, pipeline_id)
    advance_pipelines(registry)
    advance_parts(registry)
    assert {part.state for part in steps(registry, train.id).values()} == {JobState.CANCELLED}
