"""Cancelling ends what nobody does at once; resuming goes on with what did not succeed."""

import pytest
from queue_toys import generate, job, pipeline, publish, steps, take, tokenizer, worker

from yuan_jobs.claims import desired_of
from yuan_jobs.control import JobNotFound, WrongJobState, cancel, resume
from yuan_jobs.pipelines import advance_pipelines
from yuan_jobs.queries import jobs_by_state, lease_holder, list_jobs
from yuan_jobs.reconciler import give_back_lost
from yuan_jobs.records import NewJob
from yuan_jobs.registry import Registry
from yuan_jobs.states import Desired, JobState
from yuan_jobs.submission import submit
from yuan_manifest import Topology
from yuan_manifest.schema import Nodes


def test_a_queued_job_is_cancelled_at_once(registry: Registry) -> None:
    record, _ = submit(registry, tokenizer())
    assert cancel(registry, record.id).state == JobState.CANCELLED
    assert cancel(registry, record.id).reason == "cancelled by the user"


def test_a_running_job_is_asked_to_end(registry: Registry) -> None:
    record, _ = submit(registry, tokenizer())
    claim = take(registry, record.id, worker(registry))
    assert cancel(registry, record.id).state == JobState.RUNNING
    assert desired_of(registry, claim) == Desired.CANCEL


def test_what_has_ended_cannot_be_cancelled(registry: Registry) -> None:
    record, _ = submit(registry, tokenizer())
    publish(registry, take(registry, record.id, worker(registry)))
    with pytest.raises(WrongJobState, match="has SUCCEEDED already"):
        cancel(registry, record.id)
    with pytest.raises(JobNotFound, match="job nothing does not exist"):
        cancel(registry, "nothing")


def test_a_job_of_the_foreground_is_neither_cancelled_nor_resumed_here(registry: Registry) -> None:
    claim = registry.claim(NewJob("tokenizer", "x", "i", {}, {}, {}))
    with pytest.raises(WrongJobState, match="runs in the foreground"):
        cancel(registry, claim.job_id)
    registry.finish(claim, JobState.FAILED)
    with pytest.raises(WrongJobState, match="was run in the foreground"):
        resume(registry, claim.job_id)


def test_a_failed_job_goes_on_under_another_topology(registry: Registry) -> None:
    record, _ = submit(registry, tokenizer())
    registry.finish(take(registry, record.id, worker(registry)), JobState.FAILED, reason="because")
    resumed = resume(registry, record.id, {record.id: Topology(nodes=Nodes(devices=5))})
    assert (resumed.state, resumed.attempt, resumed.reason) == (JobState.QUEUED, 1, None)
    assert resumed.topology["nodes"]["devices"] == 5
    claim = take(registry, record.id, worker(registry))
    assert claim.attempt == 2
    with pytest.raises(WrongJobState, match="is RUNNING; only FAILED and CANCELLED jobs can be resumed"):
        resume(registry, record.id)


def test_lost_attempts_are_counted_anew_after_a_resume(registry: Registry) -> None:
    record, _ = submit(registry, tokenizer())
    for _ in range(3):
        give_back_lost(registry, take(registry, record.id, worker(registry)))
    resume(registry, record.id)
    give_back_lost(registry, take(registry, record.id, worker(registry)))
    assert job(registry, record.id).state == JobState.QUEUED


def test_a_job_that_was_submitted_again_is_not_resumed_beside_that(registry: Registry) -> None:
    record, _ = submit(registry, tokenizer())
    cancel(registry, record.id)
    submit(registry, tokenizer())
    with pytest.raises(WrongJobState, match="was submitted again and is at work"):
        resume(registry, record.id)


def test_steps_go_on_as_their_needs_succeed_and_the_pipeline_ends_with_them(registry: Registry) -> None:
    record, _ = submit(registry, pipeline())
    mine = worker(registry)
    publish(registry, take(registry, steps(registry, record.id)["train"].id, mine))
    advance_pipelines(registry)
    cut = steps(registry, record.id)["cut"]
    assert cut.state == JobState.QUEUED
    publish(registry, take(registry, cut.id, mine), "dataset")
    advance_pipelines(registry)
    ended = job(registry, record.id)
    assert (ended.state, ended.result) == (
        JobState.SUCCEEDED,
        {"steps": {"train": "tokenizer/demo@1", "cut": "dataset/demo@1"}},
    )


def test_a_step_that_fails_ends_its_pipeline_which_goes_on_from_there_when_resumed(registry: Registry) -> None:
    record, _ = submit(registry, pipeline())
    train = steps(registry, record.id)["train"].id
    registry.finish(take(registry, train, worker(registry)), JobState.FAILED, reason="because")
    advance_pipelines(registry)
    ended, parts = job(registry, record.id), steps(registry, record.id)
    assert (ended.state, ended.reason) == (JobState.FAILED, "step train: because")
    assert (parts["cut"].state, parts["cut"].reason) == (JobState.CANCELLED, "step train failed")
    resume(registry, record.id)
    advance_pipelines(registry)
    parts = steps(registry, record.id)
    assert job(registry, record.id).state == JobState.RUNNING
    assert (parts["train"].state, parts["cut"].state) == (JobState.QUEUED, JobState.WAITING)


def test_resuming_a_step_resumes_its_pipeline(registry: Registry) -> None:
    record, _ = submit(registry, pipeline())
    cancel(registry, record.id)
    advance_pipelines(registry)
    assert resume(registry, steps(registry, record.id)["cut"].id).state == JobState.WAITING
    assert job(registry, record.id).state == JobState.RUNNING


def test_cancelling_a_pipeline_ends_its_steps(registry: Registry) -> None:
    record, _ = submit(registry, pipeline())
    train = steps(registry, record.id)["train"].id
    claim = take(registry, train, worker(registry))
    cancel(registry, record.id)
    advance_pipelines(registry)
    assert steps(registry, record.id)["cut"].state == JobState.CANCELLED
    assert (job(registry, record.id).state, desired_of(registry, claim)) == (JobState.RUNNING, Desired.CANCEL)
    registry.finish(claim, JobState.CANCELLED, reason="cancelled by the user")
    advance_pipelines(registry)
    assert job(registry, record.id).state == JobState.CANCELLED


def test_cancelling_a_step_cancels_its_pipeline(registry: Registry) -> None:
    record, _ = submit(registry, pipeline())
    cancel(registry, steps(registry, record.id)["train"].id)
    advance_pipelines(registry)
    ended = job(registry, record.id)
    assert (ended.state, ended.reason) == (JobState.CANCELLED, "step train: cancelled by the user")


def test_listings_are_newest_first_and_in_pages(registry: Registry) -> None:
    ids = [submit(registry, tokenizer(seed=seed))[0].id for seed in range(5)]
    first = list_jobs(registry, page_size=3)
    second = list_jobs(registry, page_size=3, page_token=first.next_token)
    assert [record.id for record in (*first.jobs, *second.jobs)] == ids[::-1]
    assert second.next_token == ""


def test_listings_can_be_narrowed(registry: Registry) -> None:
    parent = submit(registry, pipeline())[0].id
    single = submit(registry, generate())[0].id
    cancel(registry, single)
    assert [record.id for record in list_jobs(registry).jobs] == [single, parent]
    assert len(list_jobs(registry, include_children=True).jobs) == 4
    assert [record.id for record in list_jobs(registry, states=[JobState.CANCELLED]).jobs] == [single]
    assert [record.id for record in list_jobs(registry, kind="pipeline").jobs] == [parent]
    counts = jobs_by_state(registry)
    assert (counts[JobState.QUEUED], counts[JobState.WAITING], counts[JobState.CANCELLED]) == (1, 1, 1)


def test_nobody_has_a_lease_that_nobody_took(registry: Registry) -> None:
    assert lease_holder(registry, "reconciler") is None
