"""What an engine tells Prometheus; names are vLLM's, so that its dashboards and habits fit. Nothing of any text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from yuan_inference.engine.request import FinishReason
from yuan_inference.engine.sequence import Sequence

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_MODEL = ("model_name",)


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
        self.usage = gauge("kv_cache_usage_perc", "Used part of the KV cache's blocks; 1 is all.")
        self.preemptions = counter("num_preemptions_total", "Requests that gave their blocks back and began again.")
        self.prompt_tokens = counter("prompt_tokens_total", "Tokens of prompts that were computed.")
        self.generation_tokens = counter("generation_tokens_total", "Tokens that were drawn.")
        self.success = counter("request_success_total", "Requests that ended.", "finished_reason")
        self.first_token = histogram("time_to_first_token_seconds", "From arrival to the first token.", _LONG)
        self.between_tokens = histogram("inter_token_latency_seconds", "Between two tokens of a request.", _SHORT)
        self.whole = histogram("e2e_request_latency_seconds", "From arrival to the end.", _LONG)
        self.queue = histogram("request_queue_time_seconds", "From arrival to the first step.", _LONG)
        self.prefill = histogram("request_prefill_time_seconds", "From the first step to the first token.", _LONG)
        self.decode = histogram("request_decode_time_seconds", "From the first token to the end.", _LONG)

    def token(self, model: str, sequence: Sequence, now: float) -> None:
        """Counts a token that was drawn, before the sequence's own times are set."""
        self.generation_tokens.labels(model).inc()
        if sequence.last_token:
            self.between_tokens.labels(model).observe(now - sequence.last_token)
            return
        self.first_token.labels(model).observe(now - sequence.arrived)
        self.prefill.labels(model).observe(now - sequence.started)

    def end(self, model: str, sequence: Sequence, reason: FinishReason, now: float) -> None:
        """Counts a request that ended."""
        self.success.labels(model, reason.value).inc()
        self.whole.labels(model).observe(now - sequence.arrived)
        if sequence.first_token:
            self.decode.labels(model).observe(now - sequence.first_token)

    def load(self, model: str, *, running: int, waiting: int, usage: float) -> None:
        """Shows the present load."""
        self.running.labels(model).set(running)
        self.waiting.labels(model).set(waiting)
        self.usage.labels(model).set(usage)
