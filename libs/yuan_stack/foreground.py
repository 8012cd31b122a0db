"""Runs a manifest in the foreground: each job in its service's process, a pipeline's one after the other."""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from yuan_events import InputError, Interrupted, WorkFailed
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.failures import silence
from yuan_jobs.home import Home, HomeLock
from yuan_jobs.planning import unable
from yuan_jobs.processes import STOP_NOTICE, StopRequest
from yuan_manifest import (
    SERVICE_OF_KIND,
    ClusterManifest,
    PipelineJob,
    Step,
    load_cluster,
    load_job,
    split_overrides,
    to_yaml,
)
from yuan_rpc import audit_of, audited
from yuan_stack.planning import check_artifacts, check_order, steps_of
from yuan_stack.service_process import run_service
from yuan_stack.tables import aligned


class StepState(StrEnum):
    """How a step of a pipeline stands."""

    done = "done"
    reused = "done before"
    nothing = "nothing to do"
    skipped = "skipped"
    failed = "failed"
    interrupted = "interrupted"
    waiting = "not started"


@dataclass
class StepRecord:
    """What a step came to: its state, how long it took, and the artifact or folder that it made."""

    name: str
    state: StepState = StepState.waiting
    seconds: float = 0.0
    result: str = ""

    def row(self) -> tuple[str, str, str, str]:
        """Returns it as a row of the table."""
        seconds = "" if self.state in (StepState.waiting, StepState.skipped) else f"{self.seconds:.1f}"
        return self.name, self.state.value, seconds, self.result


def run_manifest(
    path: Path, overrides: Sequence[str] = (), cluster_path: Path | None = None, *, force: bool = False
) -> int:
    """Runs a job or a pipeline to its end.

    All manifests, and the artifacts that no step makes, are checked before the first step starts. The steps get what
    was checked (resolved manifests in the home's scratch folder): editing a file meanwhile changes nothing.

    Args:
        path: the manifest.
        overrides: `key=value` items; those of `cluster.` go to the cluster.
        cluster_path: the cluster's file; None: the default.
        force: do everything anew.

    Returns:
        The exit code: 0, or the code of the step that did not succeed.

    Raises:
        InputError: if something is wrong with what was given, or another run is at work in the home.
        Interrupted, WorkFailed: as `run_service`.
    """
    job_overrides, cluster_overrides = split_overrides(overrides)
    cluster = load_cluster(cluster_path, cluster_overrides)
    job = load_job(path, job_overrides)
    steps = steps_of(job, path, job_overrides, cluster)
    check_order(steps)
    home = Home.of(cluster.cluster)
    with StopRequest(STOP_NOTICE, insistent=False) as stop, HomeLock.acquire(home, job.name) as lock:
        store = ArtifactStore.open(home)
        try:
            check_artifacts(steps, store)
        finally:
            store.registry.close()
        runner = _Runner(home, cluster, stop, lock, force=force)
        about = {"kind": str(job.kind), "name": job.name}
        try:
            with audited(audit_of(cluster.cluster.security), "yuan run", about) as telling:
                if isinstance(job, PipelineJob):
                    code = _run_pipeline(steps, runner)
                else:
                    code = runner.run(steps[0], StepRecord(steps[0].name))
                telling.outcome = "OK" if code == 0 else f"exit code {code}"
                return code
        finally:
            shutil.rmtree(home.scratch, ignore_errors=True)


class _Runner:
    """Runs steps, each from resolved manifests in the scratch folder."""

    def __init__(self, home: Home, cluster: ClusterManifest, stop: StopRequest, lock: HomeLock, *, force: bool) -> None:
        self._scratch = home.scratch
        self._stop = stop
        self._lock = lock
        self._options = ["--force"] if force else []
        try:
            shutil.rmtree(home.scratch, ignore_errors=True)  # of a run that was killed
            home.scratch.mkdir()
            (home.scratch / "cluster.yaml").write_text(to_yaml(cluster), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(home.scratch, error) from None

    def run(self, step: Step, record: StepRecord) -> int:
        """Runs a step and writes down what it came to; returns its exit code."""
        service = SERVICE_OF_KIND[step.job.kind]
        if service is None:
            raise InputError(f"{step.path}: kind {step.job.kind} is not done by a service")
        manifest, outcome = self._scratch / "job.yaml", self._scratch / "outcome.json"
        try:
            outcome.unlink(missing_ok=True)
            manifest.write_text(to_yaml(step.job), encoding="utf-8")
        except OSError as error:
            raise _cannot_write(manifest, error) from None
        started = time.monotonic()
        record.state = StepState.failed
        try:
            cluster = str(self._scratch / "cluster.yaml")
            arguments = ["run", str(manifest), "-f", cluster, "--outcome", str(outcome), *self._options]
            code = run_service(service, arguments, self._stop, self._lock)
        except Interrupted:
            record.state = StepState.interrupted
            raise Interrupted("interrupted; run it again to go on") from None
        finally:
            record.seconds = time.monotonic() - started
        if code == 0:
            record.state = StepState.done
            with suppress(OSError):  # a service that found the disk full could not say more than that it succeeded
                told = json.loads(outcome.read_text(encoding="utf-8"))
                record.state = StepState.reused if told["reused"] else StepState.done
                record.state = StepState.nothing if told["nothing"] else record.state
                record.result = told["result"]
        elif code == Interrupted.exit_code:
            record.state = StepState.interrupted
        return code


def _cannot_write(path: Path, error: OSError) -> WorkFailed:
    return WorkFailed(f"{path}: {(error.strerror or str(error)).lower()}")


def _run_pipeline(steps: Sequence[Step], runner: _Runner) -> int:
    """Runs steps in order until one does not succeed; shows a table of all at the end."""
    records = [StepRecord(step.name) for step in steps]
    try:
        for number, (step, record) in enumerate(zip(steps, records, strict=True), 1):
            _say(f"\n[{number}/{len(steps)}] {step.name}")
            if reason := _cannot(steps, records).get(step.name):
                record.state, record.result = StepState.skipped, reason
                _say(f"skipped: {reason}")
                continue
            if code := runner.run(step, record):
                return code
        return 0
    finally:
        _say("", *aligned(("step", "state", "seconds", "made"), [record.row() for record in records]))


def _cannot(steps: Sequence[Step], records: Sequence[StepRecord]) -> Mapping[str, str]:
    """Returns the steps that cannot run, since what they take was not made, and why it was not."""
    without = (StepState.nothing, StepState.skipped)
    nothing = {record.name: record.result for record in records if record.state in without}
    return unable(steps, nothing) if nothing else {}


def _say(*lines: str) -> None:
    """Writes lines to stdout, before what the next child writes there; to nowhere once nobody reads."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except (OSError, ValueError):
        silence(sys.stdout)
