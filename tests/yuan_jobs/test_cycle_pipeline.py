"""A cycle's pipeline on the queue: where a step has nothing to make, those that would take it are skipped."""

import pytest
from queue_toys import publish, steps, take, worker

from yuan_events import InputError
from yuan_jobs.control import resume
from yuan_jobs.pipelines import advance_pipelines
from yuan_jobs.planning import check_order, parts_of
from yuan_jobs.queries import get_job
from yuan_jobs.registry import Registry
from yuan_jobs.requests import JobRequest, PipelineRequest, StepRequest
from yuan_jobs.states import NOTHING, JobState
from yuan_jobs.submission import submit
from yuan_manifest import Topology, job_of_plain

NEEDS = {"gather": (), "cut": ("gather",), "judge": ("cut",), "release": ("judge",), "answer": ("release",)}
JOBS = {
    "gather": {"kind": "gather", "outputs": {"requests": "asked"}},
    "cut": {
        "kind": "tokenize", "inputs": {"tokenizer": "demo", "requests": "asked"}, "outputs": {"dataset": "asked"},
    },
    "judge": {
        "kind": "judge",
        "inputs": {"model": "new", "requests": "asked", "report": "after", "baseline": "before"},
        "outputs": {"report": "changelog"},
    },
    "release": {
        "kind": "release", "inputs": {"model": "new", "report": "changelog"}, "outputs": {"model": "mine"},
    },
    "answer": {
        "kind": "answer",
        "inputs": {"requests": "asked", "report": "changelog"},
        "released": "mine",
        "outputs": {"report": "answers"},
    },
}  # fmt: skip


def cycle(**needs: tuple[str, ...]) -> PipelineRequest:
    """A cycle without the jobs that take long."""
    made = [
        StepRequest(name, needs.get(name, NEEDS[name]), request(name, **JOBS[name]))
        for name in JOBS
    ]  # fmt: skip
    return PipelineRequest("cycle", tuple(made))


def request(name: str, **manifest: object) -> JobRequest:
    return JobRequest(job_of_plain({"version": 1, "name": name, **manifest}), Topology())


def say_nothing(registry: Registry, job_id: str, service: str, why: str) -> None:
    claim = take(registry, job_id, worker(registry, service))
    registry.finish(claim, JobState.SUCCEEDED, reason=why, result={NOTHING: why})


def test_in_an_empty_month_the_rest_is_skipped_and_the_cycle_is_a_success_that_says_so(registry: Registry) -> None:
    parent = submit(registry, cycle())[0]
    say_nothing(registry, steps(registry, parent.id)["gather"].id, "data", "nothing accepted")
    for _ in range(2):
        advance_pipelines(registry)
    found = steps(registry, parent.id)
    assert {name: step.state for name, step in found.items()} == dict.fromkeys(JOBS, JobState.SUCCEEDED)
    assert {step.reason for name, step in found.items() if name != "gather"} == {"skipped: nothing accepted"}
    whole = get_job(registry, parent.id)
    assert (whole.state, whole.reason) == (JobState.SUCCEEDED, "gather: nothing accepted")


def test_where_the_gate_held_the_model_back_requests_are_answered_all_the_same(registry: Registry) -> None:
    parent = submit(registry, cycle())[0]
    for name, service, kind in (("gather", "data", "requests"), ("cut", "data", "dataset")):
        publish(registry, take(registry, steps(registry, parent.id)[name].id, worker(registry, service)), kind, "asked")
        advance_pipelines(registry)
    judge = take(registry, steps(registry, parent.id)["judge"].id, worker(registry, "evaluator"))
    publish(registry, judge, "report", "changelog")
    advance_pipelines(registry)
    say_nothing(registry, steps(registry, parent.id)["release"].id, "converter", "not published: it fell")
    advance_pipelines(registry)
    assert steps(registry, parent.id)["answer"].state == JobState.QUEUED


def test_a_cycle_that_failed_goes_on_at_its_failed_step(registry: Registry) -> None:
    parent = submit(registry, cycle())[0]
    gather = take(registry, steps(registry, parent.id)["gather"].id, worker(registry))
    publish(registry, gather, "requests", "asked")
    advance_pipelines(registry)
    cut = take(registry, steps(registry, parent.id)["cut"].id, worker(registry))
    registry.finish(cut, JobState.FAILED, reason="the disk")
    advance_pipelines(registry)
    assert get_job(registry, parent.id).state == JobState.FAILED
    resume(registry, parent.id)
    advance_pipelines(registry)
    found = steps(registry, parent.id)
    assert (found["gather"].attempt, found["gather"].state) == (1, JobState.SUCCEEDED)
    assert found["cut"].state == JobState.QUEUED


def test_a_step_may_take_the_version_before_the_one_that_a_later_step_makes() -> None:
    check_order(parts_of(cycle()))
    taking = {"kind": "release", "inputs": {"model": "mine", "report": "old"}, "outputs": {"model": "other"}}
    before = StepRequest("before", (), request("before", **taking))
    later = [StepRequest(s.name, ("before",) if s.name == "gather" else s.needs, s.request) for s in cycle().steps]
    check_order(parts_of(PipelineRequest("cycle", (before, *later))))
    with pytest.raises(InputError, match="model mine is made by step release: add it to needs"):
        check_order(parts_of(PipelineRequest("cycle", (before, *cycle().steps))))
