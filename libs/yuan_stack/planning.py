"""Turns a manifest into the steps that run it, and checks all that can be known before the first one starts."""

from collections.abc import Sequence
from pathlib import Path

from yuan_jobs.planning import check_artifacts, check_order
from yuan_manifest import ClusterManifest, Job, PipelineJob, Step, check_run, load_steps, resolve_topology

__all__ = ["check_artifacts", "check_order", "steps_of"]


def steps_of(job: Job, path: Path, overrides: Sequence[str], cluster: ClusterManifest) -> list[Step]:
    """Returns a pipeline's steps in the order in which they run, or the only step that another job is.

    Raises:
        ManifestError: if one of them is wrong, or cannot run under its topology.
    """
    if isinstance(job, PipelineJob):
        return load_steps(job, cluster)
    check_run(job, resolve_topology(job, cluster))
    return [Step(job.name, (), path, tuple(overrides), job)]
