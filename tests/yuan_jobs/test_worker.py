"""Jobs go from the queue through a real broker to a real worker, and come back from it whatever it meets."""

from dataclasses import replace

import pytest
from queue_stack import QueueStack, log_of
from tests.machine import wait_until

from yuan_jobs.claims import workers
from yuan_jobs.control import cancel, resume
from yuan_jobs.queries import attempts
from yuan_jobs.reconciler import Reconciler
from yuan_jobs.states import AttemptOutcome, JobState
from yuan_jobs.worker_identity import this_process


def test_a_pipeline_goes_through_and_is_found_done_the_next_time(stack: QueueStack) -> None:
    stack.start_reconciler()
    worker = stack.start_worker()
    first = stack.submit("pipeline.yaml")
    done = stack.await_state(first, JobState.SUCCEEDED)
    assert done.result == {"steps": {"train": "tokenizer/demo@1", "cut": "dataset/demo@1"}}
    assert stack.toys.calls == ["first 1", "second 1"]

    second = stack.submit("pipeline.yaml")
    assert second != first
    stack.await_state(second, JobState.SUCCEEDED)
    assert stack.toys.calls == ["first 1", "second 1"]
    again = stack.steps(second)["train"]
    assert again.result is not None
    assert (again.artifact, again.result["reused_job"]) == ("tokenizer/demo@1", stack.steps(first)["train"].id)

    stack.toys.execute("tokenizer.yaml", _write, "tokenizer.seed=7", force=True)
    third = stack.submit("pipeline.yaml")
    stack.await_state(third, JobState.SUCCEEDED)
    assert stack.steps(third)["cut"].inputs["tokenizer"] == "tokenizer/demo@1"

    worker.terminate()
    assert worker.wait(120) == 0
    assert workers(stack.registry) == []
    assert stack.reports == []


def _write(context):
    (context.output / "x").write_text("x")
    from yuan_jobs import WorkResult

    return WorkResult()


def test_jobs_fail_are_cancelled_are_drained_and_go_on(stack: QueueStack) -> None:
    toys = stack.toys
    stack.start_reconciler()
    worker = stack.start_worker()
    (toys.control / "first.fail").write_text("it broke")
    (toys.control / "first.litter").touch()
    failed = stack.submit("tokenizer.yaml")
    record = stack.await_state(failed, JobState.FAILED)
    assert record.reason is not None
    assert record.reason.startswith("first: ValueError: it broke")
    (toys.control / "first.fail").unlink()
    (toys.control / "first.litter").unlink()
    resume(stack.registry, failed)
    assert stack.await_state(failed, JobState.SUCCEEDED).attempt == 2

    missing = stack.submit("tokenize.yaml", "inputs.tokenizer=nobody")
    reason = stack.await_state(missing, JobState.FAILED).reason
    assert reason is not None
    assert "artifact tokenizer/nobody does not exist" in reason

    toys.hold("first")
    running = stack.submit("tokenizer.yaml", "tokenizer.seed=2")
    toys.await_work("first")
    cancel(stack.registry, running)
    record = stack.await_state(running, JobState.CANCELLED)
    assert record.reason is not None
    assert record.reason.startswith("cancelled by the user")

    (toys.control / "first.working").unlink()
    drained = stack.submit("tokenizer.yaml", "tokenizer.seed=3")
    toys.await_work("first")
    worker.terminate()
    assert worker.wait(120) == 0
    record = stack.job(drained)
    assert (record.state, record.lost_attempts) == (JobState.QUEUED, 0)
    toys.release("first")
    stack.start_worker()
    assert stack.await_state(drained, JobState.SUCCEEDED).attempt == 2
    assert [a.outcome for a in attempts(stack.registry, drained)] == [AttemptOutcome.YIELDED, AttemptOutcome.SUCCEEDED]
    log = toys.home / "runs" / drained / "attempt-2" / "worker.log"
    assert log.exists()


def test_a_job_that_hangs_is_taken_up_again_by_itself_three_times_at_most(stack: QueueStack) -> None:
    stack.start_reconciler()
    stack.start_worker()
    hang = stack.toys.control / "first.hang"
    hang.write_text("step 7 has hung")
    job_id = stack.submit("tokenizer.yaml")
    failed = stack.await_state(job_id, JobState.FAILED)
    assert failed.reason == "step 7 has hung; attempts were lost 3 times"
    assert [attempt.outcome for attempt in attempts(stack.registry, job_id)] == [AttemptOutcome.LOST] * 3
    hang.unlink()
    resume(stack.registry, job_id)
    assert stack.await_state(job_id, JobState.SUCCEEDED).attempt == 4


def test_a_job_is_cancelled_with_no_worker_and_no_broker_up(stack: QueueStack) -> None:
    stack.broker.stop()
    stack.start_reconciler()
    job_id = stack.submit("tokenizer.yaml")
    wait_until(lambda: stack.reports != [])
    assert "broker" in stack.reports[0]
    assert cancel(stack.registry, job_id).state == JobState.CANCELLED


def test_a_worker_that_finds_servers_of_another_version_takes_no_job_of_theirs(
    stack: QueueStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = stack.start_worker()
    monkeypatch.setattr(
        "yuan_jobs.reconciler.this_process", lambda service: replace(this_process(service), version="9.9.9")
    )
    stack.start_reconciler()
    job_id = stack.submit("tokenizer.yaml")
    assert worker.wait(120) == 2
    assert "9.9.9" in log_of(stack.toys.folder)
    assert (stack.job(job_id).state, stack.job(job_id).attempt) == (JobState.QUEUED, 0)


def test_a_worker_of_another_version_is_refused_in_one_line(stack: QueueStack, monkeypatch: pytest.MonkeyPatch) -> None:
    reconciler = Reconciler(stack.registry, stack.cluster)
    monkeypatch.setattr(reconciler._lease, "_version", "9.9.9")
    assert reconciler.tick()
    worker = stack.toys.start("yuan_data", "worker", *stack.settings)
    while worker.poll() is None:
        reconciler.tick()
    stdout, stderr = worker.communicate()
    assert (worker.returncode, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert "version" in stderr
    assert "9.9.9" in stderr


def test_a_worker_without_a_stack_says_what_to_do(stack: QueueStack) -> None:
    ended = stack.toys.run("yuan_data", "worker", f"cluster.home={stack.toys.home}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "start the stack with: yuan up" in ended.stderr
