"""The topologies under which jobs go on: a cluster's, what a job's manifest says over it, what a user adds to that."""

from collections.abc import Iterable, Mapping
from typing import Any

from yuan_jobs.records import JobRecord
from yuan_jobs.states import RESUMABLE
from yuan_manifest import ClusterManifest, Topology, job_of_plain, resolve_topology, topology_of_plain
from yuan_manifest.errors import attach
from yuan_manifest.merging import Layers
from yuan_manifest.schema import as_plain


def topologies_of(
    jobs: Iterable[JobRecord], cluster: Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> dict[str, Topology]:
    """Returns the whole topology of every job that can go on, by its id; nothing where nothing is to change.

    Args:
        jobs: a job, or a pipeline and its steps; those without a manifest or that cannot go on are left out.
        cluster: the topology of the cluster; None: each job keeps that of its last attempt.
        overrides: what of a topology is to be otherwise, over all.

    Raises:
        ManifestError: if one of them is wrong, in one line.
    """
    if cluster is None and not overrides:
        return {}
    found: dict[str, Topology] = {}
    for record in jobs:
        if record.manifest is None or record.state not in RESUMABLE:
            continue
        base = record.topology
        if cluster is not None:
            job = job_of_plain(dict(record.manifest), record.name)
            whole = ClusterManifest(topology=topology_of_plain(dict(cluster), "the cluster's topology"))
            attach(whole, Layers().frozen("the cluster's topology"))
            base = as_plain(resolve_topology(job, whole))
        layers = Layers()
        layers.put(dict(base), {})
        layers.put(dict(overrides), {})
        found[record.id] = topology_of_plain(layers.tree, record.name)
    return found
