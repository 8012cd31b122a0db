"""`yuan apply`: what a manifest would do, shown first; then asked for; then submitted."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import typer

from yuan_cli.artifacts import ArtifactView, artifact_views
from yuan_cli.following import Submission, submit_loaded
from yuan_cli.manifests import load_with_steps, print_loaded
from yuan_cli.planning import predict
from yuan_events import InputError, Interrupted, YuanError, one_line
from yuan_jobs.identity import digest_of
from yuan_jobs.wiring import artifact_inputs, output_of
from yuan_manifest import ClusterManifest, Job, Step
from yuan_manifest.schema import GatherJob, TrainingJob
from yuan_parallel.training import GIBIBYTE

_TIMES = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def apply_manifest(path: Path, overrides: Sequence[str], cluster_path: Path | None, *, yes: bool, watch: bool) -> int:
    """Shows the plan of a manifest, asks, and submits it.

    Raises:
        InputError: if there is nobody to ask.
        Interrupted: if the answer is no.
    """
    if not yes and not sys.stdin.isatty():
        raise InputError("yuan apply asks before it submits, and here is no terminal to ask; add --yes")
    # Loaded once: what is shown is what is submitted, whatever becomes of the files meanwhile.
    job, steps, cluster = load_with_steps(path, overrides, cluster_path)
    print_loaded(path, job, steps, cluster)
    with artifact_views(cluster.cluster) as find:
        for line in plan_lines(steps, cluster, find):
            typer.echo(f"  {line}")
    if not yes and not typer.confirm("submit it?"):
        raise Interrupted("nothing was submitted")
    return submit_loaded(job, steps, cluster, Submission(watch=watch))


def plan_lines(steps: Sequence[Step], cluster: ClusterManifest, find: Callable[[str], ArtifactView]) -> Iterator[str]:
    """Yields of every step what is there already, or what it takes.

    Args:
        steps: in the order of their needs.
        cluster: where they run.
        find: looks an artifact up.
    """
    reused: dict[str, str] = {}
    anew: set[str] = set()
    for step in steps:
        output = output_of(step.job)
        name = f"{output.kind}/{output.name}"
        there = _made_before(step.job, find, reused, anew)
        if there is not None:
            reused[name] = there.reference
            unchanged = ", if its files have not changed" if _takes_files(step.job) else ""
            yield f"{step.name}: {there.reference} is there with this recipe and is not made anew{unchanged}"
            continue
        anew.add(name)
        yield f"{step.name}: {_estimate(step.job, cluster)}"


def _made_before(
    job: Job, find: Callable[[str], ArtifactView], reused: Mapping[str, str], anew: set[str]
) -> ArtifactView | None:
    """Returns the artifact that a job would make, where the newest of its name has its recipe and inputs."""
    output = output_of(job)
    if output.kind is None or isinstance(job, GatherJob):
        return None
    try:
        view = find(f"{output.kind}/{output.name}")
        inputs: dict[str, str] = {}
        for place, (kind, reference) in artifact_inputs(job).items():
            name = f"{kind}/{reference.rpartition('/')[2]}"
            if name in anew:
                return None
            inputs[place] = reused.get(name) or find(name).reference
    except YuanError:  # there is none of that name
        return None
    same = view.metadata.get("recipe_sha256") == digest_of(job.recipe())
    return view if same and dict(view.made_from) == inputs else None


def _takes_files(job: Job) -> bool:
    inputs = getattr(job, "inputs", None)
    return any(getattr(inputs, name, None) for name in ("text", "data", "path", "sentencepiece"))


def _estimate(job: Job, cluster: ClusterManifest) -> str:
    if isinstance(job, GatherJob):
        return "takes up the requests that are accepted by then; with none, what would learn them is skipped"
    if not isinstance(job, TrainingJob):
        return "runs"
    try:
        _, _, plan = predict(job, cluster)
    except YuanError as error:
        return f"runs; how long cannot be said: {one_line(error)}"
    told = plan.to_dict()
    seconds = float(told["time_s"]["total"]) * job.train.steps
    most = max(float(stage["total"]) for stage in told["memory_bytes"])
    return (
        f"trains {job.train.steps} steps, about {_duration(seconds)}, "
        f"{most / GIBIBYTE:.2f} GiB on the fullest device (yuan plan says more)"
    )


def _duration(seconds: float) -> str:
    for size, unit in _TIMES:
        if seconds >= 2 * size or unit == "s":
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable")
