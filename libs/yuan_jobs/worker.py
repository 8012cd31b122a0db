"""`python -m yuan_<service> worker`: waits for messages, claims what they name, does it. One job at a time.

The work has the main thread, so that signals and the children it starts belong to a thread that lives as long as the
process. SIGTERM is a drain: the work is asked to stop at its next safe point, its job goes back to the queue, and the
worker ends.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

# Celery ships no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from celery import Celery, signals
from celery.worker import state

from yuan_events import InputError, YuanError
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.broker import broker_url
from yuan_jobs.celery_app import TASK, celery_app, queue_name
from yuan_jobs.claims import claim_next, forget_worker, register_worker, report_idle
from yuan_jobs.context import Work
from yuan_jobs.heartbeat import Heartbeat
from yuan_jobs.home import Home
from yuan_jobs.processes import announce_ready
from yuan_jobs.queries import lease_holder
from yuan_jobs.queued import Place, check_kind, do_claimed
from yuan_jobs.reconciler import LEASE
from yuan_jobs.records import WorkerIdentity
from yuan_jobs.registry import Registry
from yuan_jobs.states import JobState
from yuan_jobs.worker_identity import this_process
from yuan_manifest import ClusterManifest, Kind, device_count

LEASE_VARIABLE = "YUAN_LEASE_SECONDS"
"""Environment variable by which the children of a worker learn after how long a silence of it they are to end."""

_LOG_LEVEL = "WARNING"


def run_worker(
    service: str, works: Mapping[Kind, Work[Any]], cluster: ClusterManifest, version: str | None = None
) -> int:
    """Does jobs until it is told to end.

    Args:
        service: whose jobs.
        works: how each kind is done.
        cluster: where registry, broker, store and home are.
        version: instead of the installed one.

    Returns:
        0 after a drain; another code where Celery ended by itself.

    Raises:
        InputError: if the registry or the store cannot be opened, or no broker runs.
        VersionMismatch: if the stack's servers are of another version.
    """
    home = Home.of(cluster.cluster)
    worker = this_process(service, version)
    store = ArtifactStore.open(home)
    try:
        refuse_other_version(store.registry, worker, cluster.cluster.lease_seconds)
        app = celery_app(broker_url(cluster.cluster), [service])
        register_worker(store.registry, worker)
        try:
            # Ranks count from the last word of their parent, the reconciler from the last move of the counter: half
            # a lease ends them before another worker starts its own.
            os.environ[LEASE_VARIABLE] = str(max(2, cluster.cluster.lease_seconds // 2))
            return _Worker(worker, works, cluster, Place(cluster.cluster, home, store)).serve(app)
        finally:
            with suppress(YuanError):
                forget_worker(store.registry, worker.id)
    finally:
        store.registry.close()


def refuse_other_version(
    registry: Registry, worker: WorkerIdentity, lease_seconds: float, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Checks that a worker is of the version of the stack's servers, as far as any of these runs.

    Raises:
        VersionMismatch: if a reconciler of another version is alive: its lease moves within the lease's time.
    """
    holder = first = lease_holder(registry, LEASE)
    deadline = time.monotonic() + lease_seconds
    while holder is not None and holder[1] != worker.version and time.monotonic() < deadline:
        if holder != first:
            from yuan_rpc.version import check_version  # noqa: PLC0415 - loads gRPC, which a worker can do without

            check_version(f"worker {worker.id}", worker.version, against=holder[1], against_name="the stack")
        sleep(0.2)
        holder = lease_holder(registry, LEASE)


class _Worker:
    """The parts of a running worker."""

    def __init__(
        self,
        worker: WorkerIdentity,
        works: Mapping[Kind, Work[Any]],
        cluster: ClusterManifest,
        place: Place,
    ) -> None:
        self._worker = worker
        self._works = works
        self._lease_seconds = cluster.cluster.lease_seconds
        self._capacity = device_count(cluster.topology)
        self._place = place
        self._registry = place.store.registry
        self._drain = threading.Event()
        self._ended = threading.Event()
        self._busy = threading.Event()
        self._refused: InputError | None = None

    def serve(self, app: Celery) -> int:
        """Takes messages until a signal ends that."""
        app.task(name=TASK, ignore_result=True)(self.handle)
        signals.worker_shutting_down.connect(self._shutting_down, weak=False)
        signals.worker_ready.connect(_ready, weak=False)
        presence = threading.Thread(target=self._report, name="presence", daemon=True)
        presence.start()
        try:
            celery_worker = app.Worker(
                hostname=self._worker.id,
                queues=[queue_name(self._worker.service)],
                pool="solo",
                concurrency=1,
                loglevel=_LOG_LEVEL,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                quiet=True,
            )
            celery_worker.start()
            if self._refused is not None:
                raise self._refused
            return int(celery_worker.exitcode or 0)
        finally:
            self._ended.set()
            presence.join()
            signals.worker_shutting_down.disconnect(self._shutting_down)
            signals.worker_ready.disconnect(_ready)

    def handle(self, job_id: str) -> None:
        """Does one job of the queue, if there is one to be done: a message for each lies there."""
        del job_id
        registry = self._registry
        if self._drain.is_set():
            return  # the job stays QUEUED, and is sent again
        self._busy.set()
        try:
            if not self._fits_the_stack():
                return  # the job stays QUEUED, for a worker that does
            # A message wakes; whose turn it is the registry knows.
            claimed = claim_next(registry, self._worker, lease_seconds=self._lease_seconds, capacity=self._capacity)
            if claimed is None:
                return
            claim, record = claimed
            try:
                work = check_kind(self._worker.service, record, self._works)
            except YuanError as error:
                registry.finish(claim, JobState.FAILED, reason=str(error))
                return
            limit = record.scheduling.time_limit_seconds
            beat = Heartbeat(registry, claim, self._worker, self._lease_seconds, self._drain, time_limit_seconds=limit)
            with beat as heartbeat:
                do_claimed(claim, record, work, self._place, heartbeat)
        finally:
            with suppress(YuanError):
                report_idle(registry, self._worker)
            self._busy.clear()

    def _fits_the_stack(self) -> bool:
        """Says whether the servers are of this worker's version still, and ends it where they are not."""
        try:
            refuse_other_version(self._registry, self._worker, self._lease_seconds)
        except InputError as error:
            self._refused = error
            state.should_stop = error.exit_code
        return self._refused is None

    def _shutting_down(self, **told: object) -> None:
        del told
        self._drain.set()

    def _report(self) -> None:
        """Tells the registry that an idle worker lives; a busy one's heartbeat does it."""
        while not self._ended.wait(self._lease_seconds / 4):
            with suppress(YuanError):
                if not self._busy.is_set():
                    report_idle(self._registry, self._worker)


def _ready(**told: object) -> None:
    del told
    announce_ready()
