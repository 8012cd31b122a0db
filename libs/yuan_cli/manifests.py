"""`yuan validate` and `yuan run --print-manifest`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from yuan_events import InputError
from yuan_jobs.wiring import artifact_inputs, model_folder, output_of, tokenizer_paths
from yuan_launch import render
from yuan_manifest import (
    SERVICE_OF_KIND,
    Job,
    Step,
    check_run,
    data_size,
    load_cluster,
    load_job,
    rank_count,
    resolve_topology,
    split_overrides,
    to_yaml,
)
from yuan_manifest.cleaning import files_of_stage
from yuan_manifest.schema import (
    ClusterManifest,
    ModelSection,
    PipelineJob,
    PlanJob,
    TokenizeJob,
    TokenizerJob,
    TrainingJob,
    as_plain,
)
from yuan_stack.planning import check_order, steps_of
from yuan_stack.tables import aligned


def print_resolved(manifest: Path, overrides: Sequence[str], cluster_path: Path | None) -> int:
    """Prints the job's manifest with `extends`, overrides and defaults filled in; it loads to the same job."""
    job, _, _ = load_with_steps(manifest, overrides, cluster_path)
    typer.echo(to_yaml(job), nl=False)
    return 0


def print_rendered(manifest: Path, overrides: Sequence[str], cluster_path: Path | None) -> int:
    """Prints what the launcher of the job's topology would be handed: a batch script, a manifest, a command.

    Raises:
        InputError: if that is nothing, since the job is no training, or its launcher is `local`.
    """
    job, _, cluster = load_with_steps(manifest, overrides, cluster_path)
    if not isinstance(job, TrainingJob):
        raise InputError(f"{manifest}: kind {job.kind.value} has no launcher; name a manifest that trains")
    topology = resolve_topology(job, cluster)
    check_run(job, topology)
    typer.echo(render(job.name, topology, Path(cluster.cluster.home).expanduser().absolute()), nl=False)
    return 0


def print_validated(manifest: Path, overrides: Sequence[str], cluster_path: Path | None, *, as_json: bool) -> int:
    """Checks a manifest, its steps and its topology; prints what it comes to."""
    job, steps, cluster = load_with_steps(manifest, overrides, cluster_path)
    if as_json:
        described = {
            "manifest": str(manifest),
            "kind": job.kind.value,
            "name": job.name,
            "steps": [_facts(step, cluster) for step in steps],
            "notes": _notes(steps),
        }
        typer.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return 0
    print_loaded(manifest, job, steps, cluster)
    for note in _notes(steps):
        typer.echo(f"note: {note}")
    return 0


def _notes(steps: Sequence[Step]) -> list[str]:
    """Returns what may be wrong: text that is not on this machine, which may be where the job is done all the same."""
    from yuan_corpus.sources import is_url  # noqa: PLC0415 - most commands read no text
    from yuan_corpus.text_files import matches_here  # noqa: PLC0415

    return [
        f"{step.name}: {key}: {pattern} finds no file on this machine from this folder; where it finds none either, "
        "the job will be refused"
        for step in steps
        for key, pattern in _text_patterns(step.job)
        if not is_url(pattern) and not matches_here(pattern)
    ]


def _text_patterns(job: Job) -> Iterator[tuple[str, str]]:
    """Yields the files, folders and patterns of text that a job names, with their keys."""
    listed: dict[str, list[str]] = {}
    if isinstance(job, TokenizerJob | TokenizeJob):
        listed["inputs.text"] = job.inputs.text
    if isinstance(job, TokenizerJob):
        listed["tokenizer.added_words"] = job.tokenizer.added_words
    if isinstance(job, TokenizeJob):
        listed |= {f"cleaning[{number}].files": files_of_stage(stage) for number, stage in enumerate(job.cleaning)}
    for key, patterns in listed.items():
        for number, pattern in enumerate(patterns):
            yield f"{key}[{number}]", pattern


def print_loaded(manifest: Path, job: Job, steps: Sequence[Step], cluster: ClusterManifest) -> None:
    """Prints what a manifest comes to, as `load_with_steps` gave it: its steps, what they take and make, on what."""
    typer.echo(f"ok: {manifest} is a {job.kind.value} named {job.name}")
    if isinstance(job, PipelineJob):
        rows = [_row(step) for step in steps]
        lines = aligned(("step", "kind", "needs", "takes", "makes"), rows)
    else:
        _, kind, _, takes, makes = _row(steps[0])
        service = SERVICE_OF_KIND[job.kind]
        doer = "yuan plan" if service is None else f"yuan_{service}"
        rows = [("kind", f"{kind}, done by {doer}"), ("takes", takes), ("makes", makes)]
        lines = aligned((), rows)
    for line in [*lines, *(text for step in steps if (text := _division(step.job, cluster)))]:
        typer.echo(f"  {line}")


def load_with_steps(
    manifest: Path, overrides: Sequence[str], cluster_path: Path | None
) -> tuple[Job, list[Step], ClusterManifest]:
    """Loads a manifest with the jobs that it comes to (a single job: one step), and the cluster; checks all of them."""
    job_overrides, cluster_overrides = split_overrides(overrides)
    cluster = load_cluster(cluster_path, cluster_overrides)
    job = load_job(manifest, job_overrides)
    steps = steps_of(job, manifest, job_overrides, cluster)
    if not isinstance(job, PlanJob):
        check_order(steps)
    return job, steps, cluster


def _takes(job: Job) -> list[str]:
    taken = [f"{kind}/{reference.rpartition('/')[2]}" for kind, reference in artifact_inputs(job).values()]
    text: list[str] = getattr(getattr(job, "inputs", None), "text", [])
    path: str | None = getattr(getattr(job, "inputs", None), "path", None)
    folder = model_folder(job)
    models = tokenizer_paths(job.inputs).values() if isinstance(job, TokenizerJob) else ()
    return [*text, *([path] if path else []), *([str(folder)] if folder else []), *models, *taken]


def _makes(job: Job) -> str:
    if isinstance(job, PlanJob):
        return "nothing"
    output = output_of(job)
    if output.kind:
        return f"{output.kind}/{output.name}"
    return "nothing" if output.path is None else str(output.path)


def _row(step: Step) -> tuple[str, str, str, str, str]:
    return step.name, step.job.kind.value, ", ".join(step.needs), ", ".join(_takes(step.job)), _makes(step.job)


def _division(job: Job, cluster: ClusterManifest) -> str:
    """Returns one line on how training is divided."""
    if not isinstance(job, TrainingJob):
        return ""
    topology = resolve_topology(job, cluster)
    parallel, device = topology.parallel, topology.nodes.device.value
    grid = f"data {data_size(topology)} x pipeline {parallel.pipeline} x tensor {parallel.tensor}"
    model: ModelSection | None = getattr(job, "model", None)  # of fine-tuning: that of the model it starts from
    layers = "" if model is None else f" of {model.num_hidden_layers} layers"
    stages = f"stages {parallel.stages}{layers}"
    return f"{job.name}: {rank_count(topology)} ranks (device {device}): {grid}, {stages}"


def _facts(step: Step, cluster: ClusterManifest) -> dict[str, Any]:
    topology = resolve_topology(step.job, cluster)
    return {
        "name": step.name,
        "manifest": str(step.path),
        "kind": step.job.kind.value,
        "service": SERVICE_OF_KIND[step.job.kind],
        "needs": list(step.needs),
        "takes": _takes(step.job),
        "makes": _makes(step.job),
        "recipe": step.job.recipe(),
        "topology": as_plain(topology),
    }
