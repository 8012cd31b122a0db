"""A pipeline's steps, each with its own loaded job, in an order in which every step's needs come first.

Running them is `yuan_stack`'s.
"""

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yuan_manifest.errors import ManifestError, Origin, Origins, origins_of
from yuan_manifest.interpolation import escaped
from yuan_manifest.loading import job_of_layers, load_job
from yuan_manifest.merging import as_override, put_value, read_layers
from yuan_manifest.schema import ClusterManifest, Job, Kind, PipelineJob, PipelineStep
from yuan_manifest.values import KeyPath, is_section, starts_with, with_home

_Value = tuple[KeyPath, Any, dict[KeyPath, Origin]]
"""A key path, the value to put there, and where it and all below it stand."""


@dataclass(frozen=True)
class Step:
    """One step, ready to run.

    Attributes:
        name: in the pipeline.
        needs: names of the steps that must have succeeded before it.
        path: of its manifest, as one finds it from the working directory.
        overrides: `key=value` items which, put over that manifest, give `job`.
        job: what is run.
    """

    name: str
    needs: tuple[str, ...]
    path: Path
    overrides: tuple[str, ...]
    job: Job


def load_pipeline(
    path: str | Path, overrides: Sequence[str] = (), cluster: ClusterManifest | None = None
) -> tuple[PipelineJob, list[Step]]:
    """Loads a pipeline and all of its steps.

    Raises:
        ManifestError: if the pipeline or one of its steps is wrong, or the file is another kind of job.
    """
    job = load_job(path, overrides)
    if not isinstance(job, PipelineJob):
        problem = f"expected pipeline, found {job.kind.value}"
        raise ManifestError.at(origins_of(job).find(("kind",)), ("kind",), problem)
    return job, load_steps(job, cluster)


def load_steps(job: PipelineJob, cluster: ClusterManifest | None = None) -> list[Step]:
    """Loads every step's job.

    Over a step's own manifest go, in this order: the step's `overrides`, and the `topology` that was given as an
    override of the pipeline. The `topology` in the pipeline's file stands under the step's own.

    Args:
        job: the pipeline.
        cluster: if given, every step is checked against its topology too.

    Returns:
        The steps in an order that respects their needs, and otherwise the manifest's.

    Raises:
        ManifestError: if one is wrong; it names the file where the wrong value stands.
    """
    return [_load_step(job, name, job.steps[name], cluster) for name in _ordered(job)]


def _ordered(job: PipelineJob) -> list[str]:
    """Returns the steps' names: of those whose needs are done, always the manifest's first."""
    names = list(job.steps)
    missing = {name: set(step.needs) for name, step in job.steps.items()}
    ready = [place for place, name in enumerate(names) if not missing[name]]
    order: list[str] = []
    while ready:
        done = names[heapq.heappop(ready)]
        order.append(done)
        for place, name in enumerate(names):
            if done in missing[name]:
                missing[name].discard(done)
                if not missing[name]:
                    heapq.heappush(ready, place)
    return order


def _load_step(job: PipelineJob, name: str, step: PipelineStep, cluster: ClusterManifest | None) -> Step:
    origins = origins_of(job)
    key: KeyPath = ("steps", name, "manifest")
    origin = origins.find(key)
    folder = Path() if origin.is_override else Path(origin.file).parent
    path = folder / Path(with_home(step.manifest))
    path = path if path.is_absolute() else Path(os.path.normpath(path))
    try:
        layers = read_layers(path)
    except ManifestError as error:
        if error.origin is None or error.origin.line is not None or error.origin.file != str(path):
            raise
        raise ManifestError.at(origin, key, str(error)) from None
    if layers.tree.get("kind") == Kind.pipeline.value:
        raise ManifestError.at(origin, key, f"{path} is a pipeline itself; a step is a single job")
    values = _values_over(job, name, layers.tree)
    for where, value, value_origins in values:
        put_value(layers, where, escaped(value), value_origins)
    loaded = job_of_layers(layers, str(path), (), cluster)
    items = tuple(as_override(where, value) for where, value, _ in values)
    return Step(name, tuple(step.needs), path, items, loaded)


def _values_over(job: PipelineJob, name: str, own: dict[str, Any]) -> list[_Value]:
    """Returns what goes over a step's own tree, in order, leaf by leaf."""
    origins = origins_of(job)
    prefix: KeyPath = ("steps", name, "overrides")
    step_tree = job.steps[name].overrides
    step = list(_leaves(step_tree, (), origins.under(prefix, moved=True)))
    shared = list(_leaves({"topology": job.topology}, (), origins))
    under = [
        item
        for item in shared
        if not item[2][item[0]].is_override and not any(_has(t, item[0]) for t in (own, step_tree))
    ]
    over = [item for item in shared if item[2][item[0]].is_override]
    return [*under, *step, *over]


def _leaves(value: Any, path: KeyPath, origins: Origins) -> Iterator[_Value]:
    if is_section(value):
        for key, child in value.items():
            yield from _leaves(child, (*path, key), origins)
    else:
        below = {place: origin for place, origin in origins.entries.items() if starts_with(place, path)}
        yield path, value, {path: origins.find(path), **below}


def _has(tree: object, path: KeyPath) -> bool:
    """Tells whether a tree decides the value at a path, itself or by something else than a section on the way."""
    for key in path:
        if not is_section(tree):
            return True
        if key not in tree:
            return False
        tree = tree[str(key)]
    return True
