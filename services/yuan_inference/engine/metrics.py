"""What an engine tells Prometheus; names are vLLM's, so that its dashboards and habits fit. Nothing of any text."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from yuan_inference.engine.request import FinishReason
from yuan_inference.engine.task import Task

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_MODEL = ("model_name",)


@dataclass
class Counts:
    """Values of one model's histogram by bucket; written by its engine's thread alone.

    Attributes:
        bounds: of the buckets, ascending; values above go into one more.
        found: values in each.
        total: their sum.
    """

    bounds: Sequence[float]
    found: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.found = [0] * (len(self.bounds) + 1)

    def add(self, value: float, times: int) -> None:
        """Counts a value that came several times."""
        self.found[bisect_left(self.bounds, value)] += times
        self.total += value * times


class StepHistogram(Collector):
    """A histogram that is told the same value of many sequences at once: prometheus_client's takes one at a time."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        """Args: name, text: of the metric. bounds: of its buckets. registry: where it is shown."""
        self._name, self._text, self._bounds = name, text, bounds
        self._counts: dict[str, Counts] = {}
        registry.register(self)

    def labels(self, model: str) -> Counts:
        """Returns one model's."""
        return self._counts.setdefault(model, Counts(self._bounds))

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Yields the metric without values."""
        yield HistogramMetricFamily(self._name, self._text, labels=_MODEL)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Yields the metric."""
        family = HistogramMetricFamily(self._name, self._text, labels=_MODEL)
        for model, counts in list(self._counts.items()):
            sums = list(accumulate(counts.found))
            names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
            family.add_metric([model], list(zip(names, sums, strict=True)), counts.total)
        yield family


class EngineMetrics:
    """Metrics of all models that a server serves, each under its `model_name`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Args: registry: where they are shown."""

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"yuan_{name}", text, _MODEL, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"yuan_{name}", text, (*_MODEL, *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"yuan_{name}", text, _MODEL, buckets=buckets, registry=registry)

        self.running = gauge("num_requests_running", "Requests in the running batch.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a place in it.")
        self.load_progress = gauge("model_load_progress", "Read part of a model's weights; 1 is all.")
        self.usage = gauge("kv_cache_usage_perc", "Used part of the KV cache's blocks; 1 is all.")
        self.preemptions = counter("num_preemptions_total", "Requests that gave their blocks back and began again.")
        self.prefix_queries = counter("prefix_cache_queries", "Tokens of prompts that were looked up there.")
        self.prefix_hits = counter("prefix_cache_hits", "Tokens of prompts that the prefix cache held.")
        self.prompt_tokens = counter("prompt_tokens_total", "Tokens of prompts that were computed.")
        self.generation_tokens = counter("generation_tokens_total", "Tokens that were drawn.")
        self.guessed_tokens = counter("spec_decode_num_draft_tokens_total", "Tokens guessed by prompt lookup.")
        self.right_guesses = counter("spec_decode_num_accepted_tokens_total", "Guessed tokens that turned out right.")
        self.success = counter("request_success_total", "Requests that ended.", "finished_reason")
        self.first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.", _LONG)
        text = "Between two tokens of a request."
        self.between_tokens = StepHistogram("yuan_inter_token_latency_seconds", text, _SHORT, registry)
        self.whole = histogram("e2e_request_latency_seconds", "From arrival to the end.", _LONG)
        self.queue = histogram("request_queue_time_seconds", "From arrival to the first step.", _LONG)
        self.prefill = histogram("request_prefill_time_seconds", "From the first step to the first token.", _LONG)
        self.decode = histogram("request_decode_time_seconds", "From the first token to the end.", _LONG)

    def of(self, model: str) -> "ModelMetrics":
        """Returns one model's."""
        return ModelMetrics(self, model)


class ModelMetrics:
    """Metrics of one model: label look-ups are made once, not for every token."""

    def __init__(self, metrics: EngineMetrics, model: str) -> None:
        self._metrics, self._model = metrics, model
        self.running, self.waiting = metrics.running.labels(model), metrics.waiting.labels(model)
        self.usage, self.preemptions = metrics.usage.labels(model), metrics.preemptions.labels(model)
        self.prefix_queries, self.prefix_hits = metrics.prefix_queries.labels(model), metrics.prefix_hits.labels(model)
        self.prompt_tokens = metrics.prompt_tokens.labels(model)
        self.generation_tokens = metrics.generation_tokens.labels(model)
        self._gaps: dict[float | None, int] = {}
        self._load = (0, 0, 0.0)
        self.guessed_tokens = metrics.guessed_tokens.labels(model)
        self.right_guesses = metrics.right_guesses.labels(model)
        self.first_token, self.between_tokens = metrics.first_token.labels(model), metrics.between_tokens.labels(model)
        self.whole, self.queue = metrics.whole.labels(model), metrics.queue.labels(model)
        self.prefill, self.decode = metrics.prefill.labels(model), metrics.decode.labels(model)

    def gap(self, seconds: float | None) -> None:
        """Takes a drawn token and the time since the one before; None: it is the first. `tokens_drawn` counts them."""
        self._gaps[seconds] = self._gaps.get(seconds, 0) + 1

    def tokens_drawn(self) -> None:
        """Counts a step's tokens; those of sequences that were in the step before share one gap."""
        if not self._gaps:
            return
        self.generation_tokens.inc(sum(self._gaps.values()))
        for seconds, times in self._gaps.items():
            if seconds is not None:
                self.between_tokens.add(seconds, times)
        self._gaps.clear()

    def end(self, task: Task, reason: FinishReason, now: float) -> None:
        """Counts a request that ended."""
        self._metrics.success.labels(self._model, reason.value).inc()
        self.whole.observe(now - task.arrived)
        if task.first_token:
            self.decode.observe(now - task.first_token)

    def load(self, *, running: int, waiting: int, usage: float) -> None:
        """Shows the present load."""
        if (running, waiting, usage) == self._load:
            return
        self._load = (running, waiting, usage)
        self.running.set(running)
        self.waiting.set(waiting)
        self.usage.set(usage)
