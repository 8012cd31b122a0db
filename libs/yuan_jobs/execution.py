"""Runs one job in the foreground, or finds that it is done: inputs, identity, attempt. The order is the whole of it.

Knows nothing of what the work does, nor of terminals and signals (`service.py`). The caller holds the home's lock. A
job of the queue takes the same steps in `queued.py`, where the claim comes first.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from yuan_events import EventSink, Interrupted, Message, one_line
from yuan_jobs.artifacts import ArtifactDamaged, ArtifactStore
from yuan_jobs.attempt import Attempt, Outcome
from yuan_jobs.context import JobT, Work
from yuan_jobs.cycles import fingerprint_of_requests
from yuan_jobs.home import Home
from yuan_jobs.identity import job_identity
from yuan_jobs.records import JobRecord, NewJob
from yuan_jobs.references import ArtifactNotFound
from yuan_jobs.states import JobState
from yuan_jobs.wiring import Output, artifact_inputs, output_of
from yuan_manifest.schema import Cluster, Topology, as_plain


def execute(
    job: JobT,
    topology: Topology,
    cluster: Cluster,
    work: Work[JobT],
    sink: EventSink,
    *,
    force: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Does a job, or finds that it is done.

    A job with the same recipe and the same versions of inputs that SUCCEEDED is returned as it is; one that FAILED,
    was interrupted or killed goes on as its next attempt, in the same run folder. The newest such job counts.

    Args:
        job: the resolved manifest.
        topology: the resolved topology.
        cluster: where registry, store and home are.
        work: how this kind of job is done.
        sink: takes the events; they are also kept in `HOME/runs/JOB/attempt-N/events.jsonl`.
        force: do it anew whatever was done before.
        should_stop: true once the work is to end.

    Raises:
        InputError: if an input does not exist or is wrong; nothing was done, or the work found it.
        WorkFailed: if the work failed; the job is FAILED with the reason.
        Interrupted: if the work was stopped; the job is CANCELLED and can be run on.
    """
    started = time.monotonic()
    home = Home.of(cluster)
    store = ArtifactStore.open(home)
    try:
        output = output_of(job)
        inputs = {name: store.open_artifact(ref, kind) for name, (kind, ref) in artifact_inputs(job).items()}
        digests = {**work.fingerprint(job), **fingerprint_of_requests(job, store.registry)}
        versions = {name: handle.reference for name, handle in inputs.items()} | digests
        identity = job_identity(job.recipe(), versions)
        known = None if force else store.registry.newest_job(identity)
        if known is not None and (done := finished(store, known, output, sink)) is not None:
            return replace(done, seconds=time.monotonic() - started)
        output.refuse_existing(None if known is None else home.run_folder(known.id))
        if should_stop():
            raise Interrupted(f"{job.name}: interrupted")
        new = NewJob(job.kind, job.name, identity, job.recipe(), versions, as_plain(topology))
        claim = store.registry.claim(new, afresh=force)
        attempt = Attempt(home=home, store=store, claim=claim, new=new, output=output, inputs=inputs, digests=digests)
        done = attempt.run(job, topology, work, sink, should_stop)
        return replace(done, seconds=time.monotonic() - started)
    finally:
        store.registry.close()


def finished(store: ArtifactStore, job: JobRecord, output: Output, sink: EventSink) -> Outcome | None:
    """Returns the outcome of a job of the same identity, if it succeeded and what it made is still there."""
    if job.state != JobState.SUCCEEDED:
        return None
    summary = job.result or {}
    if output.path is not None:
        there = summary.get("path") == str(output.path) and output.path.is_dir()
        return Outcome(job.id, job.attempt, True, None, output.path, summary) if there else None
    if job.artifact is None:
        return None
    try:
        artifact = store.open_artifact(job.artifact)
    except (ArtifactDamaged, ArtifactNotFound) as error:
        sink.emit(Message(f"{one_line(error)}: made again now", level="warning"))
        return None
    return Outcome(job.id, job.attempt, True, artifact, artifact.path, summary)
