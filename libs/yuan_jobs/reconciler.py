"""Keeps the queue moving, whatever workers, broker and other reconcilers do: one is active, in any job server.

It gives jobs of lost workers back, sends what waits in the outbox, sends again what no idle worker took, brings
pipelines on, submits what a schedule has due, and tells webhooks how jobs ended. Each write is a compare-and-set, so
that two that are active for a moment do no harm.
"""

import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import func, or_, select, update

from yuan_events import YuanError, one_line
from yuan_jobs.broker import broker_url
from yuan_jobs.celery_app import Publisher
from yuan_jobs.claims import forget_worker, workers
from yuan_jobs.clocks import WallClock, forget_times_ahead
from yuan_jobs.leases import CounterWatch, SharedLease
from yuan_jobs.models import JobRow, OutboxRow
from yuan_jobs.notifications import Notifier
from yuan_jobs.outbox import enqueue
from yuan_jobs.parts import advance_parts
from yuan_jobs.pipelines import advance_pipelines
from yuan_jobs.preemption import make_way
from yuan_jobs.records import Claim
from yuan_jobs.registry import Registry, StaleAttemptError, leave_attempt, now
from yuan_jobs.schedules import submit_due
from yuan_jobs.slots import shortage
from yuan_jobs.states import AttemptOutcome, Desired, JobState
from yuan_jobs.worker_identity import this_process
from yuan_manifest import ClusterManifest, device_count

LEASE = "reconciler"
LOST_WORKER = "its worker was lost"

MOST_LOST = 3
RESEND_SECONDS = 5.0
MOST_PATIENCE_SECONDS = 60.0
TICK_SECONDS = 0.5
_BATCH = 200


@dataclass(frozen=True)
class _Lying:
    """A job that idle workers leave lying: since when, and for how many seconds it may; that doubles each time."""

    since: float
    patience: float


class Reconciler:
    """See the module. `run` it in a thread.

    Attributes:
        owner: its name to the registry.
    """

    def __init__(
        self,
        registry: Registry,
        cluster: ClusterManifest,
        *,
        report: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
        resend_seconds: float = RESEND_SECONDS,
    ) -> None:
        """Opens nothing yet.

        Args:
            registry: whose jobs; it must be allowed to be used from the reconciler's thread.
            cluster: where the broker is, how many devices there are, how long leases last.
            report: takes lines for the server's log.
            clock: monotonic seconds.
            resend_seconds: how long an idle worker may leave a sent job lying before it is sent again.
        """
        identity = this_process("reconciler")
        self.owner = identity.id
        self._registry = registry
        self._cluster = cluster.cluster
        self._capacity = device_count(cluster.topology)
        self._report = report
        self._clock = clock
        self._resend_seconds = resend_seconds
        self._lease = SharedLease(
            registry,
            LEASE,
            owner=identity.id,
            version=identity.version,
            seconds=self._cluster.lease_seconds,
            clock=clock,
        )
        self._jobs = CounterWatch(clock)
        self._workers = CounterWatch(clock)
        self._left_lying: dict[str, _Lying] = {}
        self._publisher: Publisher | None = None
        self._notifier = Notifier(registry, self._cluster.security.webhook_hosts)
        self._wall_clock = WallClock()
        self._said = ""

    def run(self, stop: threading.Event, tick_seconds: float = TICK_SECONDS) -> None:
        """Goes on until it is told to stop; no error ends it."""
        try:
            while not stop.is_set():
                self.tick()
                stop.wait(tick_seconds)
        finally:
            with suppress(YuanError):
                self._lease.release()
            self._close_publisher()
            self._notifier.close()

    def tick(self) -> bool:
        """Does once what is to be done; returns whether this reconciler is the active one."""
        try:
            if not self._lease.held():
                # What the active one watches is watched here too, so that taking over starts no clock anew.
                self._look()
                return False
            if self._wall_clock.went_back():
                forget_times_ahead(self._registry)
            self._give_back_lost()
            advance_parts(self._registry)
            advance_pipelines(self._registry)
            make_way(self._registry, self._capacity)
            submit_due(self._registry, self._report)
            self._notifier.tick()
            self._send_again()
            self._send()
            self._say("")
        except BrokerSilent as error:
            self._say(one_line(error))
        except YuanError as error:
            # A registry that cannot be written (its disk is full, its server is away) hears no worker either: how long
            # counters stood still meanwhile says nothing.
            self._jobs, self._workers = CounterWatch(self._clock), CounterWatch(self._clock)
            self._say(one_line(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the queue must go on moving
            self._say(f"{type(error).__name__}: {one_line(error)}")
        return True

    def _look(self) -> None:
        """Looks at all counters."""
        query = select(JobRow.id, JobRow.attempt, JobRow.lease_counter).where(
            JobRow.state == JobState.RUNNING, JobRow.lease_owner.is_not(None)
        )
        with self._registry.database.reading() as session:
            counters: dict[Hashable, int] = {(job, attempt): count for job, attempt, count in session.execute(query)}
        self._jobs.observe(counters)
        self._workers.observe({worker.id: worker.counter for worker in workers(self._registry)})

    def _give_back_lost(self) -> None:
        """Gives back the jobs of workers that are gone, and forgets those."""
        self._look()
        with self._registry.database.reading() as session:
            query = select(JobRow.id, JobRow.attempt, JobRow.lease_seconds).where(
                JobRow.state == JobState.RUNNING, JobRow.lease_owner.is_not(None)
            )
            held = list(session.execute(query))
        for job_id, attempt, seconds in held:
            if self._jobs.still_for((job_id, attempt)) >= seconds:
                with suppress(StaleAttemptError):
                    give_back_lost(self._registry, Claim(job_id, attempt, None))
        for worker in workers(self._registry):
            if self._workers.still_for(worker.id) >= self._cluster.lease_seconds:
                forget_worker(self._registry, worker.id)

    def _send_again(self) -> None:
        """Writes a new message for every job that was sent and that an idle worker leaves lying."""
        idle = {worker.service for worker in workers(self._registry) if worker.job_id is None}
        lying = self._lying(idle)
        moment = self._clock()
        fresh = _Lying(moment, self._resend_seconds)
        self._left_lying = {job_id: self._left_lying.get(job_id, fresh) for job_id in lying}
        overdue = [job_id for job_id, left in self._left_lying.items() if moment - left.since >= left.patience]
        if not overdue:
            return
        for job_id in overdue:
            patience = min(2 * self._left_lying[job_id].patience, MOST_PATIENCE_SECONDS)
            self._left_lying[job_id] = _Lying(moment, patience)
        with self._registry.database.writing() as session:
            for row in session.scalars(select(JobRow).where(JobRow.id.in_(overdue), JobRow.state == JobState.QUEUED)):
                enqueue(session, row)

    def _lying(self, idle: set[str]) -> list[str]:
        """Returns the QUEUED jobs whose messages are all sent, for whom a worker and devices are free."""
        unsent = select(OutboxRow.job_id).where(OutboxRow.sent.is_(None))
        query = (
            select(JobRow)
            .where(JobRow.state == JobState.QUEUED, JobRow.queue.in_(idle), JobRow.id.not_in(unsent))
            .where(or_(JobRow.not_before.is_(None), JobRow.not_before <= now()))
            .order_by(JobRow.priority.desc(), JobRow.created, JobRow.id)
            .limit(_BATCH)
        )
        if not idle:
            return []
        with self._registry.database.reading() as session:
            return [row.id for row in session.scalars(query) if shortage(session, row, self._capacity) is None]

    def _send(self) -> None:
        """Sends what waits in the outbox."""
        query = (
            select(OutboxRow)
            .join(JobRow, JobRow.id == OutboxRow.job_id)
            .where(OutboxRow.sent.is_(None), or_(JobRow.not_before.is_(None), JobRow.not_before <= now()))
            .order_by(OutboxRow.id)
            .limit(_BATCH)
        )
        with self._registry.database.reading() as session:
            waiting = [(row.id, row.job_id, row.queue) for row in session.scalars(query)]
        if not waiting:
            return
        try:
            publisher = self._open_publisher()
            sent: list[int] = []
            try:
                for number, job_id, service in waiting:
                    publisher.send(service, job_id)
                    sent.append(number)
            finally:
                with self._registry.database.writing() as session:
                    session.execute(update(OutboxRow).where(OutboxRow.id.in_(sent)).values(sent=now()))
        except OSError as error:
            self._close_publisher()
            raise BrokerSilent(one_line(error)) from error

    def _open_publisher(self) -> Publisher:
        url = broker_url(self._cluster)
        if self._publisher is None or self._publisher.url != url:
            self._close_publisher()
            self._publisher = Publisher(url)
        return self._publisher

    def _close_publisher(self) -> None:
        if self._publisher is not None:
            with suppress(Exception):
                self._publisher.close()
            self._publisher = None

    def _say(self, line: str) -> None:
        """Reports a trouble once, not at every tick, and its end."""
        if line != self._said:
            self._report(line or "the reconciler is well again")
            self._said = line


class BrokerSilent(YuanError):
    """The broker does not take messages; they wait in the outbox."""


def give_back_lost(registry: Registry, claim: Claim, what: str = LOST_WORKER) -> None:
    """Puts a job back on the queue whose attempt came to nothing; after MOST_LOST times it has FAILED.

    Args:
        registry: of the job.
        claim: the attempt.
        what: happened to it.

    Raises:
        StaleAttemptError: if it is not the job's current attempt any more.
    """
    with registry.database.writing() as session:
        row = session.get_one(JobRow, claim.job_id)
        lost = row.lost_attempts + 1
        if row.desired == Desired.CANCEL:
            values = {"state": JobState.CANCELLED, "finished": now()}
            reason = f"cancelled by the user; {what}"
        elif lost >= MOST_LOST:
            values = {"state": JobState.FAILED, "finished": now()}
            reason = f"{what} {lost} times" if what == LOST_WORKER else f"{what}; attempts were lost {lost} times"
        else:
            values = {"state": JobState.QUEUED, "desired": Desired.RUN}
            reason = f"{what} ({lost} of at most {MOST_LOST} times)"
        leave_attempt(session, claim, AttemptOutcome.LOST, reason, {**values, "lost_attempts": lost})
        session.refresh(row)
        if row.state == JobState.QUEUED:
            enqueue(session, row)


def unsent(registry: Registry) -> int:
    """Returns how many messages wait in the outbox."""
    with registry.database.reading() as session:
        return session.scalar(select(func.count()).where(OutboxRow.sent.is_(None))) or 0
