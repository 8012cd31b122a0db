"""Who is first, who makes way, who is tried again: what a manifest's `scheduling` means on the queue."""

from datetime import timedelta
from pathlib import Path

import pytest
from queue_stack import QueueStack
from queue_toys import CAPACITY, LEASE_S, job, steps, take, worker
from sqlalchemy import update

from yuan_jobs.claims import claim_next, give_back
from yuan_jobs.control import cancel, resume
from yuan_jobs.models import JobRow
from yuan_jobs.preemption import make_way
from yuan_jobs.queries import attempts, list_jobs
from yuan_jobs.reconciler import Reconciler, unsent
from yuan_jobs.records import WorkerIdentity
from yuan_jobs.registry import Registry, now
from yuan_jobs.requests import JobRequest, PipelineRequest, StepRequest, request_from_plain, request_to_plain
from yuan_jobs.states import AttemptOutcome, Desired, JobState
from yuan_jobs.submission import submit
from yuan_manifest import SchedulingSection, Topology, job_of_plain, load_job
from yuan_manifest.scheduling import retry_delay
from yuan_manifest.schema import Nodes, Parallel

PRETRAIN = Path(__file__).parents[2] / "configs/jobs/pretrain-demo.yaml"


def scheduled(name: str, kind: str = "tokenizer", ranks: int = 1, **scheduling: object) -> JobRequest:
    if kind == "tokenizer":
        job = {"inputs": {"text": [f"{name}.txt"]}, "outputs": {"tokenizer": name}}
    else:
        job = dict(load_job(PRETRAIN).recipe())
    manifest = {**job, "version": 1, "kind": kind, "name": name, "scheduling": scheduling}
    topology = Topology(nodes=Nodes(devices=ranks), parallel=Parallel(data=ranks))
    return JobRequest(job_of_plain(manifest), topology)


def turn(registry: Registry, by: WorkerIdentity) -> str | None:
    claimed = claim_next(registry, by, lease_seconds=LEASE_S, capacity=CAPACITY)
    return None if claimed is None else claimed[1].name


def make_due(registry: Registry, job_id: str) -> None:
    with registry.database.writing() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(not_before=now() - timedelta(seconds=1)))


def test_a_higher_priority_goes_first_and_among_equals_who_came_first(registry: Registry) -> None:
    for name, priority in (("early", 0), ("late", 0), ("low", -5), ("high", 7)):
        submit(registry, scheduled(name, priority=priority))
    mine = worker(registry)
    assert [turn(registry, mine) for _ in range(5)] == ["high", "early", "late", "low", None]


def test_a_job_that_waits_for_devices_is_passed_by_its_equals_but_not_by_lower_ones(registry: Registry) -> None:
    trainer, other = worker(registry, "trainer"), worker(registry, "trainer")
    submit(registry, scheduled("running", "pretrain", ranks=1))
    assert turn(registry, trainer) == "running"
    submit(registry, scheduled("wide", "pretrain", ranks=2, priority=3))
    submit(registry, scheduled("narrow-and-lower", "pretrain", ranks=1))
    assert turn(registry, other) is None
    submit(registry, scheduled("narrow", "pretrain", ranks=1, priority=3))
    assert turn(registry, other) == "narrow"


def test_the_same_work_of_another_priority_is_the_same_job(registry: Registry) -> None:
    first, _ = submit(registry, scheduled("one", priority=1))
    again, reused = submit(registry, scheduled("one", priority=9, labels={"team": "a"}))
    assert (again.id, reused) == (first.id, True)


def test_jobs_are_listed_by_all_of_some_labels(registry: Registry) -> None:
    submit(registry, scheduled("one", labels={"team": "speech", "stage": "trial"}))
    submit(registry, scheduled("two", labels={"team": "speech"}))
    submit(registry, scheduled("three"))

    def listed(**labels: str) -> list[str]:
        return sorted(record.name for record in list_jobs(registry, labels=labels).jobs)

    assert listed(team="speech") == ["one", "two"]
    assert listed(team="speech", stage="trial") == ["one"]
    assert listed(team="vision") == []
    assert len(listed()) == 3


def test_a_failed_job_is_tried_again_later_each_time_after_twice_as_long(registry: Registry) -> None:
    job_id = submit(registry, scheduled("flaky", retries=2, retry_delay_seconds=100))[0].id
    mine = worker(registry)
    for failures, delay in ((1, 100), (2, 200)):
        registry.finish(take(registry, job_id, mine), JobState.FAILED, reason="it broke")
        record = job(registry, job_id)
        assert (record.state, record.failures) == (JobState.QUEUED, failures)
        assert record.reason == f"failed: it broke; tried again after {delay} s ({failures} of 2)"
        assert record.not_before is not None
        assert 0 < (record.not_before - now()).total_seconds() <= delay
        assert turn(registry, mine) is None, "its time has not come"
        make_due(registry, job_id)
    registry.finish(take(registry, job_id, mine), JobState.FAILED, reason="it broke")
    assert (job(registry, job_id).state, job(registry, job_id).reason) == (JobState.FAILED, "it broke")
    assert [a.outcome for a in attempts(registry, job_id)] == [AttemptOutcome.FAILED] * 3
    assert resume(registry, job_id).failures == 0


def test_a_job_that_is_to_be_cancelled_is_not_tried_again(registry: Registry) -> None:
    job_id = submit(registry, scheduled("flaky", retries=5))[0].id
    claim = take(registry, job_id, worker(registry))
    cancel(registry, job_id)
    registry.finish(claim, JobState.FAILED, reason="it broke")
    assert job(registry, job_id).state == JobState.FAILED


def test_delays_double_up_to_an_hour() -> None:
    section = SchedulingSection(retries=100, retry_delay_seconds=10)
    assert [retry_delay(section, n) for n in (1, 2, 3, 60)] == [10, 20, 40, 3600]


def test_steps_are_scheduled_as_their_pipeline_where_they_say_nothing_themselves(registry: Registry) -> None:
    own = scheduled("own", priority=8, labels={"team": "b"})
    request = PipelineRequest(
        "both",
        (StepRequest("one", (), scheduled("plain")), StepRequest("two", ("one",), own)),
        SchedulingSection(priority=2, retries=1, labels={"team": "a", "run": "7"}),
    )
    sent = request_from_plain(*request_to_plain(request))
    parts = steps(registry, submit(registry, sent)[0].id)
    assert {name: part.priority for name, part in parts.items()} == {"one": 2, "two": 8}
    assert parts["two"].scheduling == SchedulingSection(priority=8, retries=1, labels={"team": "b", "run": "7"})


def running(registry: Registry, name: str, by: WorkerIdentity, kind: str = "tokenizer", **scheduling: object) -> str:
    job_id = submit(registry, scheduled(name, kind, **scheduling))[0].id
    take(registry, job_id, by)
    return job_id


def test_a_lower_job_is_asked_to_make_way_once_and_gets_its_turn_again(registry: Registry) -> None:
    mine = worker(registry)
    lower_id = submit(registry, scheduled("lower"))[0].id
    claim = take(registry, lower_id, mine)
    make_way(registry, CAPACITY)
    assert job(registry, lower_id).desired == Desired.RUN
    submit(registry, scheduled("higher", priority=1))
    make_way(registry, CAPACITY)
    assert job(registry, lower_id).desired == Desired.YIELD
    give_back(registry, claim, "stepped aside")
    record = job(registry, lower_id)
    assert (record.state, record.desired, record.lost_attempts) == (JobState.QUEUED, Desired.RUN, 0)
    assert [turn(registry, mine), turn(registry, mine)] == ["higher", "lower"]


@pytest.mark.parametrize(
    ("below", "above"),
    [({"priority": 1}, {"priority": 1}), ({"preemptible": False}, {"priority": 9})],
    ids=["equal priority", "not preemptible"],
)
def test_equals_and_who_must_not_be_preempted_go_on(
    registry: Registry, below: dict[str, object], above: dict[str, object]
) -> None:
    first = running(registry, "first", worker(registry), **below)
    submit(registry, scheduled("second", **above))
    make_way(registry, CAPACITY)
    assert job(registry, first).desired == Desired.RUN


def test_nobody_makes_way_while_a_worker_is_idle_or_where_it_would_not_be_enough(registry: Registry) -> None:
    trainer = worker(registry, "trainer")
    small = running(registry, "small", trainer, "pretrain", ranks=1)
    other = worker(registry, "trainer")
    firm = running(registry, "firm", other, "pretrain", ranks=1, preemptible=False)
    submit(registry, scheduled("wide", "pretrain", ranks=2, priority=5))
    make_way(registry, CAPACITY)
    assert {job(registry, small).desired, job(registry, firm).desired} == {Desired.RUN}
    idle = running(registry, "cut", worker(registry))
    worker(registry)
    submit(registry, scheduled("cut-more", priority=5))
    make_way(registry, CAPACITY)
    assert job(registry, idle).desired == Desired.RUN


def test_a_message_waits_in_the_outbox_until_its_jobs_time_has_come(stack: QueueStack) -> None:
    job_id = submit(stack.registry, scheduled("flaky", retries=1, retry_delay_seconds=3600))[0].id
    reconciler = Reconciler(stack.registry, stack.cluster)
    assert reconciler.tick()
    assert unsent(stack.registry) == 0
    stack.registry.finish(take(stack.registry, job_id, worker(stack.registry)), JobState.FAILED, reason="it broke")
    assert reconciler.tick()
    assert unsent(stack.registry) == 1
    make_due(stack.registry, job_id)
    assert reconciler.tick()
    assert unsent(stack.registry) == 0


def test_on_a_running_stack_a_job_makes_way_another_runs_out_of_time(stack: QueueStack) -> None:
    stack.start_reconciler()
    stack.start_worker()
    stack.toys.hold("first")
    lower = stack.submit("tokenizer.yaml")
    stack.toys.await_work("first")
    higher = stack.submit("tokenizer.yaml", "name=urgent", "tokenizer.seed=5", "scheduling.priority=3")
    stack.await_state(higher, JobState.SUCCEEDED)
    stack.toys.release("first")
    assert stack.await_state(lower, JobState.SUCCEEDED).attempt == 2

    stack.toys.hold("slow")
    limited = stack.submit("tokenizer.yaml", "name=slow", "tokenizer.seed=6", "scheduling.time_limit_seconds=1")
    reason = stack.await_state(limited, JobState.FAILED).reason
    assert reason is not None
    assert "its time limit of 1 s" in reason
