"""`yuan jobs`, `yuan show JOB`, `yuan logs`, `yuan cancel`, `yuan resume`: one call of the stack each, and printing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from yuan_cli.facts import labelled, short_value
from yuan_events import InputError
from yuan_jobs.client import JobClient
from yuan_jobs.messages import desired_of, plain_of, state_of
from yuan_jobs.states import Desired, JobState
from yuan_manifest import Kind, ManifestError, job_of_plain, load_cluster, split_overrides, topology_of_plain
from yuan_manifest.merging import Layers, apply_overrides
from yuan_manifest.schema import as_plain
from yuan_manifest.yaml_source import dump_yaml
from yuan_rpc.jobs.v1 import jobs_pb2
from yuan_stack.tables import aligned

SHOWN = 20
"""Jobs that are listed without --all."""

_LONGEST_REMARK = 70


@dataclass(frozen=True)
class Filter:
    """Which jobs are listed: of a state, of a kind, with all of some labels; None and nothing: all."""

    state: str | None = None
    kind: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def says_something(self) -> bool:
        """Whether it leaves any out."""
        return bool(self.state or self.kind or self.labels)


def print_jobs(wanted: Filter, cluster: Path | None, *, everything: bool, as_json: bool) -> int:
    """Lists jobs, newest first."""
    kind = wanted.kind
    states = [] if wanted.state is None else [_state(wanted.state)]
    if kind is not None and kind not in Kind.__members__:
        raise InputError(f"yuan jobs: no kind {kind!r}; expected one of {', '.join(Kind)}")
    with JobClient(load_cluster(cluster).cluster) as client:
        found = client.jobs(states=states, kind=kind or "", include_children=everything, labels=wanted.labels)
        jobs = list(found) if everything else [job for _, job in zip(range(SHOWN + 1), found, strict=False)]
    shown = jobs if everything else jobs[:SHOWN]
    if as_json:
        typer.echo(json.dumps([facts_of(job, whole=False) for job in shown], indent=2, ensure_ascii=False))
        return 0
    if not jobs:
        nothing = "nothing has been submitted to this stack yet; yuan submit MANIFEST does that"
        typer.echo("no job is so; yuan jobs lists all" if wanted.says_something else nothing, err=True)
        return 0
    rows = [(job.id, job.kind, _standing(job), _ago(job.created_at), _remark(job)) for job in shown]
    for line in aligned(("job", "kind", "state", "submitted", ""), rows, right=()):
        typer.echo(line)
    if len(jobs) > len(shown):
        typer.echo("there are more; yuan jobs --all lists them", err=True)
    return 0


def print_job(reply: jobs_pb2.GetResponse, *, as_json: bool) -> int:
    """Prints one job: how it stands, its steps, where it runs, what it made, its recipe."""
    job = reply.job
    if as_json:
        facts = {**facts_of(job), "steps": [facts_of(child) for child in reply.children]}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    result = plain_of(job.result)
    lost = f", {job.lost_attempts} of them lost" if job.lost_attempts else ""
    rows = [
        ("kind", job.kind),
        ("state", _standing(job)),
        *([("reason", job.reason)] if job.reason else []),
        ("attempts", f"{job.attempt}{lost}"),
        *([("priority", str(job.priority))] if job.priority else []),
        *labelled("labels", [f"{name}={value}" for name, value in sorted(job.labels.items())]),
        *([("failed before", f"{job.failures} times")] if job.failures else []),
        *([("not before", _moment(job.not_before))] if job.HasField("not_before") else []),
        ("submitted", _moment(job.created_at)),
        *([("started", _moment(job.started_at))] if job.HasField("started_at") else []),
        *([("ended", _moment(job.finished_at))] if job.HasField("finished_at") else []),
        *([("part of", f"{job.parent_id}, step {job.step}")] if job.parent_id else []),
        *labelled("needs", job.needs),
        *([("made", made_by(job))] if made_by(job) else []),
        *labelled("summary", [f"{k}: {short_value(v)}" for k, v in result.items() if k not in {"path", "steps"}]),
    ]
    typer.echo(job.id)
    for line in aligned((), rows):
        typer.echo(f"  {line}")
    if reply.children:
        typer.echo("steps")
        steps = [(child.step, child.id, _standing(child), _remark(child)) for child in reply.children]
        for line in aligned((), steps):
            typer.echo(f"  {line}")
    if job.kind != Kind.pipeline:
        for title, tree in (("topology", _topology(job)), ("recipe", _recipe(job))):
            typer.echo(title)
            for line in dump_yaml(tree).splitlines():
                typer.echo(f"  {line}")
    return 0


def print_logs(job_id: str, cluster: Path | None, *, follow: bool, as_json: bool) -> int:
    """Prints what a job's processes print."""
    with JobClient(load_cluster(cluster).cluster, notice=_notice) as client:
        job = client.get(job_id).job
        printed = False
        for line in client.logs(job.id, follow=follow):
            printed = True
            if as_json:
                entry = {"line": line.line, "source": line.source, "attempt": line.attempt}
                typer.echo(json.dumps(entry, ensure_ascii=False))
            else:
                typer.echo(line.line if line.source == "worker" else f"[{line.source}] {line.line}")
        if not printed and not as_json:
            typer.echo(f"{job.id}: its processes have printed nothing; its events: yuan wait {job.id}", err=True)
    return 0


def cancel_job(job_id: str, cluster: Path | None, *, as_json: bool) -> int:
    """Cancels a job."""
    with JobClient(load_cluster(cluster).cluster) as client:
        job = client.cancel(client.get(job_id).job.id)
    if as_json:
        typer.echo(json.dumps(facts_of(job), indent=2, ensure_ascii=False))
    elif state_of(job.state) == JobState.CANCELLED:
        typer.echo(f"{job.id}: cancelled")
    else:
        typer.echo(f"{job.id}: ends at its next safe point; wait for that with: yuan wait {job.id}")
    return 0


def resume_job(job_id: str, overrides: Sequence[str], cluster_path: Path | None) -> jobs_pb2.Job:
    """Resumes a job under the cluster's topology, with what its manifest and the overrides say over that."""
    job_overrides, cluster_overrides = split_overrides(overrides)
    layers = Layers()
    apply_overrides(layers, job_overrides)
    if others := [key for key in layers.tree if key != "topology"]:
        raise InputError(
            f"yuan resume: {others[0]} is no part of the topology, which is all that may change on the way; "
            "submit the job anew with it"
        )
    manifest = load_cluster(cluster_path, cluster_overrides)
    with JobClient(manifest.cluster) as client:
        job = client.get(job_id).job
        return client.resume(job.id, as_plain(manifest.topology), layers.tree.get("topology", {}))


def facts_of(job: jobs_pb2.Job, *, whole: bool = True) -> dict[str, Any]:
    """Returns a job for programs; `whole`: with recipe, topology and result."""
    facts: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "state": state_of(job.state).value,
        "desired": desired_of(job.desired).value,
        "attempt": job.attempt,
        "lost_attempts": job.lost_attempts,
        "reason": job.reason or None,
        "parent_id": job.parent_id or None,
        "step": job.step or None,
        "created": _iso(job, "created_at"),
        "started": _iso(job, "started_at"),
        "finished": _iso(job, "finished_at"),
        "artifact": job.artifact or None,
        "needs": list(job.needs),
        "priority": job.priority,
        "labels": dict(job.labels),
        "failures": job.failures,
        "not_before": _iso(job, "not_before"),
    }
    if whole:
        facts |= {name: plain_of(getattr(job, name)) for name in ("recipe", "topology", "result")}
        facts["identity"] = job.identity or None
    return facts


def made_by(job: jobs_pb2.Job) -> str:
    """Returns the artifact or folder that a job made; nothing if it made none."""
    return job.artifact or str(plain_of(job.result).get("path", ""))


def _topology(job: jobs_pb2.Job) -> dict[str, Any]:
    """Returns a job's topology, its keys in the schema's order, which a Struct does not keep."""
    tree = plain_of(job.topology)
    try:
        return as_plain(topology_of_plain(tree))
    except ManifestError:
        # Of a server of another version.
        return tree


def _recipe(job: jobs_pb2.Job) -> dict[str, Any]:
    """Returns a job's recipe, its keys in the schema's order."""
    tree = plain_of(job.recipe)
    try:
        return job_of_plain(tree).recipe()
    except ManifestError:
        return tree


def _state(text: str) -> JobState:
    name = text.upper()
    if name not in JobState.__members__:
        raise InputError(f"yuan jobs: no state {text!r}; expected one of {', '.join(JobState)}")
    return JobState(name)


def _standing(job: jobs_pb2.Job) -> str:
    state = state_of(job.state)
    if not state.ended and desired_of(job.desired) == Desired.CANCEL:
        return f"{state.value} (to be cancelled)"
    return state.value


def _remark(job: jobs_pb2.Job) -> str:
    text = job.reason or made_by(job)
    return text if len(text) <= _LONGEST_REMARK else f"{text[: _LONGEST_REMARK - 1]}…"


def _ago(moment: Timestamp) -> str:
    seconds = max(0.0, (datetime.now(UTC) - moment.ToDatetime(UTC)).total_seconds())
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _moment(moment: Timestamp) -> str:
    return f"{moment.ToDatetime(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _iso(job: jobs_pb2.Job, name: Any) -> str | None:
    return getattr(job, name).ToDatetime(UTC).isoformat() if job.HasField(name) else None


def _notice(line: str) -> None:
    typer.echo(line, err=True)
