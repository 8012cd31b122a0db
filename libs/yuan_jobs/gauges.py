"""Prometheus metrics of the registry: how many jobs there are in which state, what waits, for how long, for whom.

Every server that takes jobs shows them, and all show the same, since the registry is one: take the maximum over servers
(`max by (kind, state) (yuan_jobs)`), and the loss of one server loses nothing. They are read at each scrape.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from yuan_events import YuanError
from yuan_jobs.models import AttemptRow, DeploymentRow, JobRow, NotificationRow, OutboxRow, SlotRow, WorkerRow
from yuan_jobs.registry import Registry, now
from yuan_jobs.states import JobState

PREFIX = "yuan_jobs"


class JobGauges(Collector):
    """Collects them; where the registry does not answer, `yuan_jobs_registry_up` alone, as 0."""

    def __init__(self, registry: Registry, devices: int) -> None:
        """Describes them.

        Args:
            registry: of the jobs.
            devices: of the whole stack, for `yuan_jobs_devices`.
        """
        self._registry = registry
        self._devices = devices

    def collect(self) -> Iterable[Metric]:
        """Yields them as the registry has them now."""
        up = GaugeMetricFamily(f"{PREFIX}_registry_up", "Whether the registry answers.")
        try:
            with self._registry.database.reading() as session:
                families = list(self._read(session))
        except (YuanError, SQLAlchemyError):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from families

    def describe(self) -> Iterable[Metric]:
        """Yields nothing: without this a registry of metrics would collect once to learn the names."""
        return []

    def _read(self, session: Session) -> Iterable[Metric]:
        yield _gauge(
            "",
            "Jobs, with steps of pipelines and parts of jobs.",
            ("kind", "state"),
            session.execute(select(JobRow.kind, JobRow.state, func.count()).group_by(JobRow.kind, JobRow.state)),
        )
        ready = or_(JobRow.not_before.is_(None), JobRow.not_before <= now())
        queued = (JobRow.state == JobState.QUEUED, JobRow.queue.is_not(None), ready)
        waiting = select(JobRow.queue, func.count(), func.min(JobRow.created)).where(*queued).group_by(JobRow.queue)
        rows = list(session.execute(waiting))
        lengths = ((queue, count) for queue, count, _ in rows)
        yield _gauge("_queued", "Jobs that wait for a worker and whose time has come.", ("queue",), lengths)
        ages = ((queue, _seconds_since(created)) for queue, _, created in rows)
        yield _gauge("_oldest_queued_seconds", "Age of the oldest of them.", ("queue",), ages)
        running = select(JobRow.kind, func.min(JobRow.started)).where(
            JobRow.state == JobState.RUNNING, JobRow.started.is_not(None), JobRow.kind != "pipeline"
        )
        starts = session.execute(running.group_by(JobRow.kind))
        longest = ((kind, _seconds_since(started)) for kind, started in starts if started is not None)
        yield _gauge("_longest_running_seconds", "Since the first start of the longest running.", ("kind",), longest)
        attempts = CounterMetricFamily(f"{PREFIX}_attempts", "Attempts that ended, by how.", labels=("outcome",))
        ended = select(AttemptRow.outcome, func.count()).where(AttemptRow.outcome.is_not(None))
        for outcome, count in session.execute(ended.group_by(AttemptRow.outcome)):
            attempts.add_metric([str(outcome)], count)
        yield attempts
        workers = select(WorkerRow.service, func.count()).group_by(WorkerRow.service)
        yield _gauge("_workers", "Workers that are registered.", ("service",), session.execute(workers))
        busy = select(func.count()).select_from(SlotRow)
        yield _gauge("_devices_in_use", "Devices that jobs and deployments hold.", (), [(session.scalar(busy) or 0,)])
        yield _gauge("_devices", "Devices of the stack.", (), [(self._devices,)])
        unsent = select(func.count()).select_from(OutboxRow).where(OutboxRow.sent.is_(None))
        messages = [(session.scalar(unsent) or 0,)]
        yield _gauge("_unsent_messages", "Messages that the broker has not taken.", (), messages)
        untold = select(func.count()).select_from(NotificationRow).where(NotificationRow.next_try.is_not(None))
        yield _gauge("_untold_webhooks", "Webhooks that wait for their next try.", (), [(session.scalar(untold) or 0,)])
        deployed = select(DeploymentRow.state, func.count()).group_by(DeploymentRow.state)
        yield _gauge("_deployments", "Models that are to be served.", ("state",), session.execute(deployed))


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Any]) -> GaugeMetricFamily:
    """Returns a family of rows that hold a label each, then the value."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for *values, value in rows:
        family.add_metric([str(label) for label in values], float(value))
    return family


def _seconds_since(moment: datetime) -> float:
    return max(0.0, (now() - moment).total_seconds())
