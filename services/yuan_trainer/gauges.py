"""Prometheus gauges of the trainer: where every run that is going on stands, read off its history at each scrape.

Workers have no page of their own; the server's (`cluster.services.trainer.metrics_port`) speaks for all of them.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from yuan_jobs.home import Home
from yuan_jobs.queries import list_jobs
from yuan_jobs.registry import Registry
from yuan_jobs.states import JobState
from yuan_manifest import Kind
from yuan_trainer.history import HISTORY_NAME, latest

PREFIX = "yuan_trainer_"

GAUGES = {
    "step": "Optimizer steps done.",
    "loss": "Training loss of the last step, nats per token.",
    "learning_rate": "Learning rate of the last step.",
    "gradient_norm": "Gradient norm of the last step before clipping.",
    "tokens_per_second": "Tokens trained on in a second, over all ranks.",
    "mfu": "Share of the devices' rate that the model's floating-point operations are.",
    "memory_gib": "Most memory that a rank has held, 2^30 bytes.",
    "seconds_left": "Seconds to the last step at the speed of the last ones.",
    "validation_loss": "Last validation loss, nats per token.",
    "validation_perplexity": "Its perplexity.",
}


class RunGauges(Collector):
    """Collects the gauges of running trainings, labelled with job and name."""

    def __init__(self, running: Callable[[], Iterable[tuple[str, str, Path]]]) -> None:
        """Args: running: id, name and history of every training that is going on."""
        self._running = running

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yields them as the histories have them now."""
        families = {
            name: GaugeMetricFamily(PREFIX + name, text, labels=["job", "name"]) for name, text in GAUGES.items()
        }
        for job_id, name, history in self._running():
            record: dict[str, Any] = latest(history)
            for metric, family in families.items():
                if metric in record:
                    family.add_metric([job_id, name], float(record[metric]))
        yield from families.values()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Yields nothing: without this the registry would collect once to learn the names."""
        return []


def gauges_of(home: Home, registry: Registry) -> RunGauges:
    """Returns the gauges of the trainings of a home."""

    def running() -> Iterable[tuple[str, str, Path]]:
        for kind in (Kind.pretrain, Kind.finetune):
            for job in list_jobs(registry, states=[JobState.RUNNING], kind=kind, include_children=True).jobs:
                yield job.id, job.name, home.run_folder(job.id) / HISTORY_NAME

    return RunGauges(running)
