"""Jobs go from the queue through a real broker to a real worker, and come back from it whatever it meets."""

import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from queue_stack import LEASE_S, QueueStack, log_of, running
from toy_home import Toys, wait_until

from yuan_jobs.claims import workers
from yuan_jobs.control import cancel, resume
from yuan_jobs.queries import attempts
from yuan_jobs.reconciler import Reconciler, unsent
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
    assert worker.wait(30) == 0
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
    assert worker.wait(30) == 0
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
    assert worker.wait(30) == 2
    assert "9.9.9" in log_of(stack.toys.folder)
    assert (stack.job(job_id).state, stack.job(job_id).attempt) == (JobState.QUEUED, 0)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
        while file.write(b"x" * 512):
            pass


@pytest.mark.slow
def test_a_job_that_leaves_no_byte_of_the_registry_s_disk_has_failed_once_there_is_room(
    toys: Toys, small_disk: Path
) -> None:
    toys.home = small_disk / "home"
    with running(toys) as stack:
        stack.start_reconciler()
        worker = stack.start_worker()
        toys.hold("first")
        job_id = stack.submit("tokenizer.yaml")
        toys.await_work("first")
        fill(small_disk)
        (toys.control / "first.fail").write_text("no room")
        toys.release("first")
        wait_until(lambda: stack.reports != [])
        time.sleep(3 * LEASE_S)  # after which a worker that says nothing has lost its job
        (small_disk / "fill").unlink()
        record = stack.await_state(job_id, JobState.FAILED)
        assert record.reason is not None
        assert record.reason.startswith("first: ValueError: no room")
        assert (record.attempt, record.lost_attempts, worker.poll()) == (1, 0, None)
        (toys.control / "first.fail").unlink()
        resume(stack.registry, job_id)
        assert stack.await_state(job_id, JobState.SUCCEEDED).attempt == 2


@pytest.mark.slow
def test_a_job_whose_registry_was_away_too_long_goes_back_to_the_queue(toys: Toys, small_disk: Path) -> None:
    toys.home = small_disk / "home"
    with running(toys) as stack:
        stack.start_reconciler()
        stack.start_worker()
        toys.hold("first")
        job_id = stack.submit("tokenizer.yaml")
        toys.await_work("first")
        fill(small_disk)
        wait_until(lambda: stack.reports != [])
        time.sleep(1.5 * LEASE_S)
        (small_disk / "fill").unlink()
        wait_until(lambda: stack.job(job_id).attempt == 2)
        toys.release("first")
        record = stack.await_state(job_id, JobState.SUCCEEDED)
        assert (record.attempt, record.lost_attempts) == (2, 0)


@pytest.mark.slow
def test_a_killed_worker_s_job_goes_on_at_another_from_where_it_was(stack: QueueStack) -> None:
    stack.start_reconciler()
    worker = stack.start_worker()
    stack.toys.hold("first")
    job_id = stack.submit("tokenizer.yaml")
    stack.toys.await_work("first")
    os.kill(worker.pid, signal.SIGKILL)
    stack.start_worker()
    wait_until(lambda: stack.job(job_id).attempt == 2)
    stack.toys.release("first")
    record = stack.await_state(job_id, JobState.SUCCEEDED)
    assert record.lost_attempts == 1
    assert record.result is not None
    assert record.result["turns_before"] > 0
    assert [a.outcome for a in attempts(stack.registry, job_id)] == [AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED]
    wait_until(lambda: len(workers(stack.registry)) == 1)


@pytest.mark.slow
def test_a_stopped_worker_that_wakes_after_its_lease_publishes_nothing(stack: QueueStack) -> None:
    toys = stack.toys
    stack.start_reconciler()
    sleeper = stack.start_worker()
    toys.hold("first")
    (toys.control / "first.stubborn").touch()
    job_id = stack.submit("tokenizer.yaml")
    toys.await_work("first")
    os.kill(sleeper.pid, signal.SIGSTOP)
    stack.start_worker()
    wait_until(lambda: stack.job(job_id).attempt == 2)
    toys.release("first")
    os.kill(sleeper.pid, signal.SIGCONT)
    record = stack.await_state(job_id, JobState.SUCCEEDED)
    assert (record.attempt, record.artifact) == (2, "tokenizer/demo@1")
    wait_until(lambda: sorted(w.job_id or "" for w in workers(stack.registry)) == ["", ""])
    assert [a.version for a in stack.registry.artifacts()] == [1]
    assert [p.name for p in (toys.home / "store" / "tokenizer" / "demo" / job_id).iterdir()] == ["attempt-2"]
    # It is as good as new.
    assert stack.await_state(stack.submit("tokenizer.yaml", "tokenizer.seed=9"), JobState.SUCCEEDED).artifact


@pytest.mark.slow
def test_a_worker_whose_work_is_deaf_ends_once_its_lease_is_lost(stack: QueueStack) -> None:
    toys = stack.toys
    stack.start_reconciler()
    sleeper = stack.start_worker()
    toys.hold("first")
    (toys.control / "first.stubborn").touch()
    job_id = stack.submit("tokenizer.yaml")
    toys.await_work("first")
    os.kill(sleeper.pid, signal.SIGSTOP)
    wait_until(lambda: stack.job(job_id).state == JobState.QUEUED)
    os.kill(sleeper.pid, signal.SIGCONT)
    assert sleeper.wait(30) == 75


@pytest.mark.slow
def test_a_job_that_kills_its_workers_has_failed_after_the_third(stack: QueueStack) -> None:
    stack.start_reconciler()
    stack.toys.hold("first")
    job_id = stack.submit("tokenizer.yaml")
    for attempt in (1, 2, 3):
        worker = stack.start_worker()
        wait_until(lambda expected=attempt: stack.toys.calls == [f"first {n + 1}" for n in range(expected)])
        os.kill(worker.pid, signal.SIGKILL)
    assert stack.await_state(job_id, JobState.FAILED).reason == "its worker was lost 3 times"


@pytest.mark.slow
def test_jobs_survive_a_broker_that_loses_everything(stack: QueueStack) -> None:
    stack.start_reconciler()
    ids = [stack.submit("tokenizer.yaml", f"tokenizer.seed={seed}") for seed in range(3)]
    wait_until(lambda: unsent(stack.registry) == 0)
    stack.broker.client().flushall()
    stack.start_worker()
    for job_id in ids:
        stack.await_state(job_id, JobState.SUCCEEDED)


@pytest.mark.slow
def test_a_broker_that_is_killed_under_a_running_job_stops_nothing(stack: QueueStack) -> None:
    stack.start_reconciler()
    stack.start_worker()
    stack.toys.hold("first")
    running = stack.submit("tokenizer.yaml")
    stack.toys.await_work("first")
    port = stack.broker.port
    stack.broker.terminate()
    later = stack.submit("tokenizer.yaml", "tokenizer.seed=5")
    stack.toys.release("first")
    stack.await_state(running, JobState.SUCCEEDED)
    wait_until(lambda: stack.reports != [])
    stack.restart_broker(port)
    stack.await_state(later, JobState.SUCCEEDED)
    wait_until(lambda: stack.reports[-1] == "the reconciler is well again")


@pytest.mark.slow
def test_messages_that_come_twice_or_speak_of_nothing_do_no_harm(stack: QueueStack) -> None:
    from yuan_jobs.celery_app import Publisher

    publisher = Publisher(stack.broker.connection_url)
    job_id = stack.submit("tokenizer.yaml")
    for _ in range(3):
        publisher.send("data", job_id)
        publisher.send("data", "no-such-job")
    stack.start_worker()
    stack.start_worker()
    stack.start_reconciler()
    stack.await_state(job_id, JobState.SUCCEEDED)
    other = stack.submit("tokenizer.yaml", "tokenizer.seed=2")
    stack.await_state(other, JobState.SUCCEEDED)
    assert stack.toys.calls == ["first 1", "first 1"]


@pytest.mark.slow
def test_two_reconcilers_do_what_one_does_and_the_second_takes_over(stack: QueueStack) -> None:
    first = stack.start_reconciler()
    stack.start_reconciler()
    stack.start_worker()
    stack.await_state(stack.submit("pipeline.yaml"), JobState.SUCCEEDED)
    first.set()
    stack.await_state(stack.submit("pipeline.yaml", "train.tokenizer.seed=4"), JobState.SUCCEEDED)
    assert len(stack.toys.calls) == 4


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
