"""Requests, workers and moves of the queue for tests of it."""

from yuan_jobs.claims import claim_queued, register_worker
from yuan_jobs.queries import children, get_job
from yuan_jobs.records import Claim, JobRecord, NewArtifact, WorkerIdentity
from yuan_jobs.registry import Registry
from yuan_jobs.requests import JobRequest, PipelineRequest, StepRequest
from yuan_jobs.worker_identity import this_process
from yuan_manifest import Topology, job_of_plain

LEASE_S = 30
CAPACITY = 2


def tokenizer(name: str = "first", output: str = "demo", seed: int = 1) -> JobRequest:
    """A job that makes a tokenizer of text."""
    return _request(
        kind="tokenizer", inputs={"text": ["a.txt"]}, tokenizer={"seed": seed}, outputs={"tokenizer": output}, name=name
    )


def tokenize(name: str = "second", tokenizer: str = "demo", output: str = "demo") -> JobRequest:
    """A job that makes a dataset of text and a tokenizer."""
    return _request(
        kind="tokenize", name=name, inputs={"tokenizer": tokenizer, "text": ["a.txt"]}, outputs={"dataset": output}
    )


def generate(name: str = "last", model: str = "demo") -> JobRequest:
    """A job that makes a report of a model: of artifacts only."""
    return _request(kind="generate", name=name, inputs={"model": model, "prompts": ["hi"]}, outputs={"report": "demo"})


def _request(**manifest: object) -> JobRequest:
    return JobRequest(job_of_plain({"version": 1, **manifest}), Topology())


def pipeline(name: str = "both") -> PipelineRequest:
    """A pipeline of two steps, the second of which needs the first."""
    return PipelineRequest(name, (StepRequest("train", (), tokenizer()), StepRequest("cut", ("train",), tokenize())))


def worker(registry: Registry, service: str = "data") -> WorkerIdentity:
    """A worker that the registry knows."""
    identity = this_process(service)
    register_worker(registry, identity)
    return identity


def take(registry: Registry, job_id: str, by: WorkerIdentity, capacity: int = CAPACITY) -> Claim:
    """Claims a job that is there to be claimed."""
    claimed = claim_queued(registry, job_id, by, lease_seconds=LEASE_S, capacity=capacity)
    assert claimed is not None
    return claimed[0]


def publish(registry: Registry, claim: Claim, kind: str = "tokenizer", name: str = "demo") -> None:
    """Ends an attempt with an artifact."""
    path = f"{kind}/{name}/{claim.job_id}/attempt-{claim.attempt}"
    registry.publish(claim, NewArtifact(kind, name, path, "d" * 64, 1, {}), {"words": 1})


def job(registry: Registry, job_id: str) -> JobRecord:
    """Returns a job as it is now."""
    return get_job(registry, job_id)


def steps(registry: Registry, job_id: str) -> dict[str, JobRecord]:
    """Returns the steps of a pipeline by name."""
    return {step.step: step for step in children(registry, job_id)}
