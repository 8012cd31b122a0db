"""A job's topology: the cluster's default under what the job overrides, and whether the job can run so.

Only arithmetic on sizes: which rank does what is `yuan_parallel`'s, and so is the plan behind `auto` stages.
"""

from typing import Any

from yuan_manifest.checks import check
from yuan_manifest.errors import ManifestError, Origin, Origins, attach, origins_of
from yuan_manifest.interpolation import build
from yuan_manifest.merging import Layers
from yuan_manifest.schema import ClusterManifest, Job, PretrainJob, Topology, as_plain
from yuan_manifest.values import KeyPath, children, is_list

ABOVE: KeyPath = ("topology",)


def resolve_topology(job: Job, cluster: ClusterManifest) -> Topology:
    """Returns the whole topology that a job runs under: the cluster's, with what the job overrides put over it.

    Raises:
        ManifestError: if a value is wrong (an interpolation that resolves to another type).
    """
    layers = Layers()
    for tree, origins in ((as_plain(cluster.topology), origins_of(cluster)), (job.topology, origins_of(job))):
        below = _all_placed(tree, origins)
        layers.put({"topology": tree}, below)
    origins = layers.frozen(origins_of(job).file)
    topology = build(Topology, layers.tree["topology"], origins, above=ABOVE)
    attach(topology, origins)
    check(topology, origins, ABOVE)
    return topology


def data_size(topology: Topology) -> int:
    """Returns the data-parallel size; `auto` is as many pipelines as the devices hold, at least one."""
    parallel = topology.parallel
    if parallel.data != "auto":
        return int(parallel.data)
    return max(1, device_count(topology) // (parallel.pipeline * parallel.tensor))


def rank_count(topology: Topology) -> int:
    """Returns how many ranks run: data x pipeline x tensor."""
    return data_size(topology) * topology.parallel.pipeline * topology.parallel.tensor


def device_count(topology: Topology) -> int:
    """Returns how many devices there are, over all nodes."""
    return topology.nodes.count * topology.nodes.devices


def check_run(job: Job, topology: Topology) -> None:
    """Checks what must hold between a job and the topology that it runs under; only training has such rules.

    Raises:
        ManifestError: if the job cannot run so; it names where the value to change stands, be it the job, the
            cluster or an override.
    """
    if not isinstance(job, PretrainJob):
        return
    for key, problem in _contradictions(topology):
        raise _error(topology, key, problem)
    parallel = topology.parallel
    layers = job.model.num_hidden_layers
    if is_list(parallel.stages) and sum(parallel.stages) != layers:
        problem = f"{parallel.stages} sum to {sum(parallel.stages)}, but model.num_hidden_layers is {layers}"
        raise _error(topology, ("parallel", "stages"), problem)
    if parallel.pipeline > layers:
        problem = f"{parallel.pipeline} stages for {layers} layers (model.num_hidden_layers); every stage needs one"
        raise _error(topology, ("parallel", "pipeline"), problem)
    ranks, devices = rank_count(topology), device_count(topology)
    if ranks > devices:
        raise _error(topology, *_too_many_ranks(topology, ranks, devices))
    data, micro = data_size(topology), job.train.micro_batch_size
    if job.train.global_batch_size % (micro * data):
        key = ("train", "global_batch_size")
        problem = (
            f"{job.train.global_batch_size} is no multiple of {micro * data}, which is "
            f"train.micro_batch_size {micro} x {data} data-parallel ranks (topology.parallel.data)"
        )
        raise ManifestError.at(origins_of(job).find(key), key, problem)


def _too_many_ranks(topology: Topology, ranks: int, devices: int) -> tuple[KeyPath, str]:
    parallel, nodes = topology.parallel, topology.nodes
    key = "pipeline" if parallel.data == "auto" else "data"
    sizes = f"data {data_size(topology)} x pipeline {parallel.pipeline} x tensor {parallel.tensor}"
    problem = (
        f"{sizes} are {ranks} ranks, more than the devices, {nodes.count} x {nodes.devices} = {devices}; "
        f"set topology.nodes.devices={ranks}, or fewer ranks"
    )
    return ("parallel", key), problem


def _contradictions(topology: Topology) -> list[tuple[KeyPath, str]]:
    """What is wrong between the fields of a whole topology; only training divides its work so, other jobs ignore it."""
    parallel = topology.parallel
    found: list[tuple[KeyPath, str]] = []
    if is_list(parallel.stages) and len(parallel.stages) != parallel.pipeline:
        count = len(parallel.stages)
        problem = (
            f"{parallel.stages} are {count} stages, but topology.parallel.pipeline is {parallel.pipeline}; "
            f"set topology.parallel.pipeline={count}, or topology.parallel.stages=auto"
        )
        found.append((("parallel", "stages"), problem))
    if parallel.pipeline > 1 and parallel.zero_stage != 1:
        problem = f"{parallel.zero_stage} with {parallel.pipeline} pipeline stages; expected 1"
        found.append((("parallel", "zero_stage"), problem))
    return found


def _error(topology: Topology, key: KeyPath, problem: str) -> ManifestError:
    path = (*ABOVE, *key)
    return ManifestError.at(origins_of(topology).find(path), path, problem)


def _all_placed(tree: Any, origins: Origins) -> dict[KeyPath, Origin]:
    """Returns an origin for every value of a topology, that of the section around it where it has none."""
    placed: dict[KeyPath, Origin] = {}

    def visit(value: Any, path: KeyPath) -> None:
        placed[path] = origins.find(path)
        for key, child in children(value):
            visit(child, (*path, key))

    visit(tree, ABOVE)
    return placed
