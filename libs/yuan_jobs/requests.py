"""What is submitted: one job, or a pipeline of jobs, resolved by the client; and its plain form for the wire.

The plain form of a job is its manifest with `folder`, where the relative paths in it begin; that of a pipeline has
its steps' jobs in it: `{kind: pipeline, name, folder, steps: {NAME: {needs: […], job: {…}, topology: {…}}}}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yuan_events import InputError
from yuan_manifest import (
    ClusterManifest,
    Job,
    Kind,
    PipelineJob,
    SchedulingSection,
    Step,
    check_run,
    job_of_plain,
    resolve_topology,
    topology_of_plain,
)
from yuan_manifest.schema import Topology, as_plain
from yuan_manifest.values import is_list, is_section

_VERSION = 1


@dataclass(frozen=True)
class JobRequest:
    """One job to be done.

    Attributes:
        job: resolved.
        topology: resolved.
        folder: where relative paths in it begin; empty: where the worker was started.
    """

    job: Job
    topology: Topology
    folder: str = ""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.name

    @property
    def kind(self) -> Kind:
        """The job's kind."""
        return self.job.kind


@dataclass(frozen=True)
class StepRequest:
    """A pipeline's step: its name, the steps that it needs, and its job."""

    name: str
    needs: tuple[str, ...]
    request: JobRequest


@dataclass(frozen=True)
class PipelineRequest:
    """Jobs in the order of their needs; no step comes before one that it needs."""

    name: str
    steps: tuple[StepRequest, ...]
    scheduling: SchedulingSection = field(default_factory=SchedulingSection)

    @property
    def kind(self) -> Kind:
        """Always `pipeline`."""
        return Kind.pipeline


Request = JobRequest | PipelineRequest


def request_of(job: Job, steps: Sequence[Step], cluster: ClusterManifest) -> Request:
    """Returns the request of a loaded manifest, with relative paths from the current folder.

    Args:
        job: what `load_job` returned.
        steps: of a pipeline, what `load_steps` returned; else not looked at.
        cluster: whose topology is the default.

    Raises:
        ManifestError: if a job cannot run under its topology.
    """
    folder = str(Path.cwd())

    def single(one: Job) -> JobRequest:
        topology = resolve_topology(one, cluster)
        check_run(one, topology)
        return JobRequest(one, topology, folder)

    if not isinstance(job, PipelineJob):
        return single(job)
    parts = tuple(StepRequest(s.name, s.needs, single(s.job)) for s in steps)
    return PipelineRequest(job.name, parts, job.scheduling)


def manifest_of(job: Job) -> dict[str, Any]:
    """Returns a job's whole manifest as JSON's types; its `topology` is what of the cluster's it overrides."""
    return as_plain(job)


def recipe_of(request: Request) -> dict[str, Any]:
    """Returns what is done: of a pipeline, its steps' needs and recipes."""
    if isinstance(request, JobRequest):
        return request.job.recipe()
    steps = {s.name: {"needs": list(s.needs), "recipe": s.request.job.recipe()} for s in request.steps}
    return {"version": _VERSION, "kind": Kind.pipeline.value, "name": request.name, "steps": steps}


def request_to_plain(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the plain form of a request, and its topology (empty for a pipeline, whose steps have their own)."""
    if isinstance(request, JobRequest):
        return manifest_of(request.job) | {"folder": request.folder}, as_plain(request.topology)
    steps: dict[str, Any] = {}
    for step in request.steps:
        job, topology = request_to_plain(step.request)
        steps[step.name] = {"needs": list(step.needs), "job": job, "topology": topology}
    scheduling = as_plain(request.scheduling)
    kind = Kind.pipeline.value
    return {"version": _VERSION, "kind": kind, "name": request.name, "scheduling": scheduling, "steps": steps}, {}


def request_from_plain(job: Mapping[str, Any], topology: Mapping[str, Any]) -> Request:
    """Reads what `request_to_plain` wrote.

    Raises:
        InputError: if anything is wrong with it, in one line.
    """
    tree = dict(job)
    if tree.get("kind") != Kind.pipeline.value:
        return _job_request(tree, dict(topology), "job")
    steps = tree.get("steps")
    name = tree.get("name")
    if not isinstance(name, str) or not name:
        raise InputError("submitted pipeline: name: missing")
    if not is_section(steps) or not steps:
        raise InputError(f"submitted pipeline {name}: steps: missing")
    read = tuple(_step_request(str(key), value) for key, value in steps.items())
    ordered = _in_order(name, read)
    return PipelineRequest(name, ordered, _checked(name, ordered, tree.get("scheduling", {})).scheduling)


def _checked(name: str, parts: Sequence[StepRequest], scheduling: Any) -> Job:
    """Checks a pipeline's name, the names of its steps, and when it runs, by the rules of its manifest."""
    steps = {step.name: {"manifest": f"{step.name}.yaml"} for step in parts}
    kind = Kind.pipeline.value
    tree = {"version": _VERSION, "kind": kind, "name": name, "scheduling": scheduling, "steps": steps}
    return job_of_plain(tree, "submitted pipeline")


def _job_request(tree: dict[str, Any], topology: Any, name: str) -> JobRequest:
    folder = tree.pop("folder", "")
    if not isinstance(folder, str):
        raise InputError(f"submitted {name}: folder: expected text")
    if not is_section(topology):
        raise InputError(f"submitted {name}: topology: expected a section")
    job = job_of_plain(tree, f"submitted {name}")
    resolved = topology_of_plain(topology, f"submitted {name}")
    check_run(job, resolved)
    return JobRequest(job, resolved, folder)


def _step_request(name: str, value: Any) -> StepRequest:
    if not is_section(value) or not is_section(value.get("job")):
        raise InputError(f"submitted step {name}: job: missing")
    needs = value.get("needs", [])
    if not is_list(needs) or not all(isinstance(need, str) for need in needs):
        raise InputError(f"submitted step {name}: needs: expected names of steps")
    if value["job"].get("kind") == Kind.pipeline.value:
        raise InputError(f"submitted step {name}: a step is a single job, not a pipeline")
    return StepRequest(name, tuple(needs), _job_request(dict(value["job"]), value.get("topology", {}), f"step {name}"))


def _in_order(pipeline: str, steps: Sequence[StepRequest]) -> tuple[StepRequest, ...]:
    """Returns the steps so that none comes before one that it needs."""
    waiting = list(steps)
    known = {step.name for step in steps}
    ordered: list[StepRequest] = []
    for step in steps:
        if unknown := set(step.needs) - known:
            raise InputError(f"submitted pipeline {pipeline}: step {step.name} needs {min(unknown)}, which is none")
    while waiting:
        done = {step.name for step in ordered}
        ready = next((step for step in waiting if done.issuperset(step.needs)), None)
        if ready is None:
            names = ", ".join(step.name for step in waiting)
            raise InputError(f"submitted pipeline {pipeline}: steps {names} need each other in a circle")
        ordered.append(ready)
        waiting.remove(ready)
    return tuple(ordered)
