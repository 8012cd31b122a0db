"""The queue through a real broker and real workers, parts of which are killed, stopped, wiped, or full."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from kombu import Connection
from queue_stack import LEASE_S, QueueStack, running
from tests.machine import wait_until
from toy_home import Toys

from yuan_jobs.claims import workers
from yuan_jobs.control import resume
from yuan_jobs.queries import attempts
from yuan_jobs.reconciler import unsent
from yuan_jobs.states import AttemptOutcome, JobState

pytestmark = pytest.mark.slow


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
        while file.write(b"x" * 512):
            pass


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
        time.sleep(2 * LEASE_S)  # after which a worker that says nothing has lost its job
        (small_disk / "fill").unlink()
        record = stack.await_state(job_id, JobState.FAILED)
        assert record.reason is not None
        assert record.reason.startswith("first: ValueError: no room")
        assert (record.attempt, record.lost_attempts, worker.poll()) == (1, 0, None)
        (toys.control / "first.fail").unlink()
        resume(stack.registry, job_id)
        assert stack.await_state(job_id, JobState.SUCCEEDED).attempt == 2


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
    assert sleeper.wait(120) == 75


def test_a_job_that_kills_its_workers_has_failed_after_the_third(stack: QueueStack) -> None:
    stack.start_reconciler()
    stack.toys.hold("first")
    job_id = stack.submit("tokenizer.yaml")
    for attempt in (1, 2, 3):
        worker = stack.start_worker()
        wait_until(lambda expected=attempt: stack.toys.calls == [f"first {n + 1}" for n in range(expected)])
        os.kill(worker.pid, signal.SIGKILL)
    assert stack.await_state(job_id, JobState.FAILED).reason == "its worker was lost 3 times"


def test_jobs_survive_a_broker_that_loses_everything(stack: QueueStack) -> None:
    stack.start_reconciler()
    ids = [stack.submit("tokenizer.yaml", f"tokenizer.seed={seed}") for seed in range(3)]
    wait_until(lambda: unsent(stack.registry) == 0)
    stack.broker.client().flushall()
    stack.start_worker()
    for job_id in ids:
        stack.await_state(job_id, JobState.SUCCEEDED)


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


def test_two_reconcilers_do_what_one_does_and_the_second_takes_over(stack: QueueStack) -> None:
    first = stack.start_reconciler()
    stack.start_reconciler()
    stack.start_worker()
    stack.await_state(stack.submit("pipeline.yaml"), JobState.SUCCEEDED)
    first.set()
    stack.await_state(stack.submit("pipeline.yaml", "train.tokenizer.seed=4"), JobState.SUCCEEDED)
    assert len(stack.toys.calls) == 4


def test_a_job_longer_than_the_broker_s_visibility_timeout_is_delivered_once(stack: QueueStack) -> None:
    stack.start_reconciler()
    stack.start_worker()
    stack.start_worker()  # which would take what comes again
    stack.toys.hold("first")
    job_id = stack.submit("tokenizer.yaml")
    stack.toys.await_work("first")
    time.sleep(1.5 * LEASE_S)
    # What a consumer whose timeout is over does with every message that nobody has acknowledged, whoever took it.
    with Connection(stack.broker.connection_url, transport_options={"visibility_timeout": 1}) as impatient:
        impatient.default_channel.qos.restore_visible()
    time.sleep(1)
    assert stack.toys.calls == ["first 1"]
    stack.toys.release("first")
    assert stack.await_state(job_id, JobState.SUCCEEDED).attempt == 1
    assert stack.toys.calls == ["first 1"]
