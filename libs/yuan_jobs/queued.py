"""Does one job that a worker has claimed: inputs, identity, attempt, and how it ends. Knows neither Celery nor signals.

The inputs of a first attempt are looked up here, those of later ones are what the first one found: a run that goes on
from its checkpoint keeps its data.
"""

import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yuan_events import InputError, NullSink, YuanError, one_line
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.attempt import Attempt, tell_registry
from yuan_jobs.claims import describe, give_back, succeed_as, workers
from yuan_jobs.context import ArtifactHandle, Work
from yuan_jobs.cycles import fingerprint_of_requests
from yuan_jobs.execution import finished
from yuan_jobs.heartbeat import Heartbeat, StopReason
from yuan_jobs.home import Home
from yuan_jobs.identity import job_identity
from yuan_jobs.parts import hand_out
from yuan_jobs.queries import children
from yuan_jobs.reconciler import give_back_lost
from yuan_jobs.records import Claim, JobRecord, NewJob
from yuan_jobs.references import Reference
from yuan_jobs.states import JobState
from yuan_jobs.wiring import Output, artifact_inputs, output_of
from yuan_manifest import Cluster, Job, Kind, job_of_plain, topology_of_plain


@dataclass(frozen=True)
class Place:
    """Where a worker does its jobs.

    Attributes:
        cluster: the stack that it is a part of.
        home: where run states and logs are.
        store: where artifacts are published.
    """

    cluster: Cluster
    home: Home
    store: ArtifactStore


def do_claimed(
    claim: Claim,
    record: JobRecord,
    work: Work[Any],
    place: Place,
    heartbeat: Heartbeat,
) -> None:
    """Does a claimed job; whatever happens, the registry knows afterwards how it stands.

    Args:
        claim: the right to do it.
        record: the job.
        work: how its kind is done.
        place: where.
        heartbeat: keeps the lease, and says when to stop.
    """
    folder = place.home.attempt_folder(claim.job_id, claim.attempt)
    # The attempt has told the registry how it ended.
    with suppress(YuanError), _failing(claim, place.store, heartbeat):
        folder.mkdir(parents=True, exist_ok=True)
        with _output_to(folder / "worker.log"), _working_in(record.folder):
            _do(claim, record, work, place, heartbeat)


def _do(claim: Claim, record: JobRecord, work: Work[Any], place: Place, heartbeat: Heartbeat) -> None:
    store = place.store
    registry = store.registry
    sink = NullSink()  # who watches reads the attempt's journal
    job = job_of_plain(dict(record.manifest or {}), record.name)
    topology = topology_of_plain(dict(record.topology), record.name)
    parent = registry.job(record.parent_id) if record.parent_id is not None else None
    if parent is not None and parent.kind != Kind.pipeline:
        attempt = _part(claim, record, parent, place, heartbeat)
        attempt.run(job, topology, work, sink, heartbeat.should_stop)
        return
    output = output_of(job)
    inputs = _inputs(job, record, store)
    digests = {**work.fingerprint(job), **fingerprint_of_requests(job, registry, claim.job_id)}
    versions = {name: handle.reference for name, handle in inputs.items()} | digests
    identity = job_identity(job.recipe(), versions)
    describe(registry, claim, identity, versions)
    known = None if record.force else registry.finished_job(identity, besides=claim.job_id)
    if known is not None and finished(store, known, output, sink) is not None:
        succeed_as(registry, claim, known)
        return
    output.refuse_existing(place.home.run_folder(claim.job_id))
    attempt = Attempt(
        home=place.home,
        store=store,
        claim=claim,
        new=NewJob(job.kind, job.name, identity, job.recipe(), versions, record.topology),
        output=output,
        inputs=inputs,
        digests=digests,
        cluster=place.cluster,
        again=f"`yuan resume {claim.job_id}`",
        interrupted=_interrupted(store, heartbeat, record),
        lost=_lost(store, heartbeat, record),
        divisible=work.part is not None and sum(one.service == record.queue for one in workers(registry)) > 1,
        hand_out=lambda claim, parts: hand_out(registry, claim, parts),
        keep_telling=heartbeat.keep_telling,
    )
    attempt.run(job, topology, work, sink, heartbeat.should_stop)


def _part(claim: Claim, record: JobRecord, parent: JobRecord, place: Place, heartbeat: Heartbeat) -> Attempt:
    """Returns the attempt of a part: with the inputs that its job found, and nothing to publish."""
    store = place.store
    job = job_of_plain(dict(record.manifest or {}), record.name)
    return Attempt(
        home=place.home,
        store=store,
        claim=claim,
        new=NewJob(job.kind, record.name, "", job.recipe(), parent.inputs, record.topology),
        output=Output(),
        inputs=_inputs(job, parent, store),
        digests={},
        cluster=place.cluster,
        again=f"`yuan resume {parent.id}`",
        interrupted=_interrupted(store, heartbeat, record),
        lost=_lost(store, heartbeat, record),
        part=record.step,
        run_folder=place.home.run_folder(parent.id),
        keep_telling=heartbeat.keep_telling,
    )


def _interrupted(store: ArtifactStore, heartbeat: Heartbeat, record: JobRecord) -> Callable[[Claim, str], None]:
    """Returns what becomes of the job when its work has stopped: that depends on who wanted it to."""

    def settle(claim: Claim, reason: str) -> None:
        match heartbeat.reason:
            case StopReason.CANCEL:
                what = reason.partition("; ")[0]  # what follows is how a run of the foreground goes on
                store.registry.finish(claim, JobState.CANCELLED, reason=f"cancelled by the user: {what}")
            case StopReason.TIME:
                limit = f"its time limit of {record.scheduling.time_limit_seconds} s (scheduling.time_limit_seconds)"
                store.registry.finish(claim, JobState.FAILED, reason=f"reached {limit}; what it had is saved")
            case _:  # a lost one too: it may be nobody's yet, where the registry was away; else this is refused
                give_back(store.registry, claim, reason)

    return settle


def _lost(store: ArtifactStore, heartbeat: Heartbeat, record: JobRecord) -> Callable[[Claim, str], None]:
    """Returns what becomes of the job when its work broke down: what ran out of time was ended by its own worker."""
    settle = _interrupted(store, heartbeat, record)

    def end(claim: Claim, reason: str) -> None:
        if heartbeat.reason is StopReason.TIME:
            settle(claim, reason)
        else:
            give_back_lost(store.registry, claim, reason)

    return end


def _inputs(job: Job, record: JobRecord, store: ArtifactStore) -> dict[str, ArtifactHandle]:
    """Opens the artifacts that a job takes: those of its earlier attempts; else its pipeline's; else the newest."""
    made = _made_by_pipeline(record, store)
    found: dict[str, ArtifactHandle] = {}
    for place, (kind, text) in artifact_inputs(job).items():
        wanted = Reference.parse(text, kind)
        reference = record.inputs.get(place)
        if reference is None and wanted.version is None:
            reference = made.get((str(wanted.kind), wanted.name))
        found[place] = store.open_artifact(reference or text, kind)
    return found


def _made_by_pipeline(record: JobRecord, store: ArtifactStore) -> Mapping[tuple[str, str], str]:
    """Returns what the steps of the job's pipeline came to, by kind and name: not always the newest of that name."""
    if record.parent_id is None:
        return {}
    made: dict[tuple[str, str], str] = {}
    for step in children(store.registry, record.parent_id):
        if step.state == JobState.SUCCEEDED and step.artifact:
            reference = Reference.parse(step.artifact)
            made[str(reference.kind), reference.name] = step.artifact
    return made


@contextmanager
def _failing(claim: Claim, store: ArtifactStore, heartbeat: Heartbeat) -> Generator[None, None, None]:
    """Makes the job FAILED for what goes wrong before the attempt takes care of that itself."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, YuanError | OSError)
        reason = one_line(error) if known else f"{type(error).__name__}: {one_line(error)}"
        # An attempt that has told how it ended is not the current one any more, and this is refused.
        tell_registry(lambda: store.registry.finish(claim, JobState.FAILED, reason=reason), heartbeat.keep_telling)
        if not isinstance(error, OSError | YuanError):
            raise


@contextmanager
def _working_in(folder: str) -> Generator[None, None, None]:
    """Changes to the folder from which the job was submitted, where its relative paths begin."""
    if not folder:
        yield
        return
    before = Path.cwd()
    with suppress(OSError):  # on another host it need not be there: paths that lead nowhere are named by the work
        os.chdir(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            os.chdir(before)


@contextmanager
def _output_to(log: Path) -> Generator[None, None, None]:
    """Sends what this process and its children print to a file; a worker does one job at a time."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def check_kind(service: str, record: JobRecord, works: Mapping[Any, Work[Any]]) -> Work[Any]:
    """Returns how a job is done.

    Raises:
        InputError: if this service does not do its kind.
    """
    work = works.get(record.kind)
    if work is None:
        raise InputError(f"job {record.id}: kind {record.kind} is not done by yuan_{service}")
    return work
