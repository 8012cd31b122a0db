"""A job's topology: the cluster's default under what the job overrides, and whether the job can run so.

Only arithmetic on sizes: which rank does what is `yuan_parallel`'s, and so is the plan behind `auto` stages.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol

from yuan_manifest.checks import check
from yuan_manifest.choices import CostModel, Device, Launcher
from yuan_manifest.errors import ManifestError, Origin, Origins, attach, origins_of
from yuan_manifest.interpolation import build
from yuan_manifest.merging import Layers
from yuan_manifest.schema import (
    ClusterManifest,
    FinetuneJob,
    Job,
    PlanJob,
    PretrainJob,
    Topology,
    TrainingJob,
    TrainSection,
    as_plain,
)
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


class NetworkSizes(Protocol):
    """Sizes of a network that its division depends on; a manifest's model section has them, and so has a config."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        ...

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def num_hidden_layers(self) -> int:
        """Transformer blocks."""
        ...

    @property
    def num_attention_heads(self) -> int:
        """Heads."""
        ...

    @property
    def intermediate_size(self) -> int:
        """Width of each SwiGLU half."""
        ...


def check_run(job: Job, topology: Topology) -> None:
    """Checks what must hold between a job and the topology that it runs under; only training has such rules.

    Raises:
        ManifestError: if the job cannot run so; it names where the value to change stands, be it the job, the
            cluster or an override.
    """
    if not isinstance(job, TrainingJob | PlanJob):
        return
    if isinstance(job, TrainingJob):
        for key, problem in _launching(topology):
            raise _error(topology, key, problem)
    check_division(job, topology, job.model if isinstance(job, PretrainJob | FinetuneJob | PlanJob) else None)


def check_division(job: TrainingJob | PlanJob, topology: Topology, sizes: NetworkSizes | None) -> None:
    """Checks that a training can be divided so.

    What the paper's cost model plans may be a training of another program: only what makes its formulas meaningless is
    refused then.

    Args:
        job: a training, or a plan of one.
        topology: the resolved topology.
        sizes: of the network; None where they are not known yet (fine-tuning, before its model is looked at).

    Raises:
        ManifestError: at the first problem.
    """
    of_paper = isinstance(job, PlanJob) and job.plan.cost_model == CostModel.paper
    problems = [_stage_lists(topology, sizes)]
    if not of_paper:
        problems += [_combinations(topology), _tensor_sizes(topology, sizes, job)]
    problems += [_devices(topology)]
    for key, problem in chain.from_iterable(problems):
        raise _error(topology, key, problem)
    for key, problem in chain(_batches(topology, job.train), [] if of_paper else _whole_matrices(topology, job)):
        raise ManifestError.at(origins_of(job).find(key), key, problem)


_Found = Iterator[tuple[KeyPath, str]]
"""Keys, of the topology or of the job, and what is wrong there."""


def _launching(topology: Topology) -> _Found:
    count = topology.nodes.count
    if count > 1 and topology.launcher == Launcher.local:
        others = ", ".join(launcher for launcher in Launcher if launcher != Launcher.local)
        yield ("nodes", "count"), f"{count} hosts, but launcher local starts ranks on this one; expected 1, or {others}"
    if topology.launcher != Launcher.local and topology.nodes.device == Device.auto:
        problem = f"what the hosts of launcher {topology.launcher} compute on is not known here; expected cpu or cuda"
        yield ("nodes", "device"), problem


def _stage_lists(topology: Topology, sizes: NetworkSizes | None) -> _Found:
    parallel = topology.parallel
    stages, pipeline = parallel.stages, parallel.pipeline
    if is_list(stages) and len(stages) != pipeline:
        problem = (
            f"{stages} are {len(stages)} stages, but topology.parallel.pipeline is {pipeline}; "
            f"set topology.parallel.pipeline={len(stages)}, or topology.parallel.stages=auto"
        )
        yield ("parallel", "stages"), problem
    if sizes is None:
        return
    layers = sizes.num_hidden_layers
    if is_list(stages) and sum(stages) != layers:
        problem = f"{stages} sum to {sum(stages)}, but model.num_hidden_layers is {layers}"
        yield ("parallel", "stages"), problem
    if pipeline > layers:
        problem = f"{pipeline} stages for {layers} layers (model.num_hidden_layers); every stage needs one"
        yield ("parallel", "pipeline"), problem


def _combinations(topology: Topology) -> _Found:
    """Only what is tested runs; the README has the table."""
    parallel = topology.parallel
    stage, pipeline, tensor = parallel.zero_stage, parallel.pipeline, parallel.tensor
    key = ("parallel", "zero_stage")
    if pipeline > 1 and stage != 1:
        yield key, f"{stage} with {pipeline} pipeline stages; expected 1"
    elif tensor > 1 and stage > 1:
        yield key, f"{stage} with tensor parallelism (topology.parallel.tensor {tensor}); expected 0 or 1"


def _tensor_sizes(topology: Topology, sizes: NetworkSizes | None, job: TrainingJob | PlanJob) -> _Found:
    parallel = topology.parallel
    tensor = parallel.tensor
    if tensor == 1:
        return
    divided = (
        {}
        if sizes is None
        else {
            "model.num_attention_heads": sizes.num_attention_heads,
            "model.hidden_size": sizes.hidden_size,
            "model.intermediate_size": sizes.intermediate_size,
            "model.vocab_size": sizes.vocab_size,
        }
    )
    if parallel.sequence:
        divided["data.sequence_length"] = job.data.sequence_length
    for name, size in divided.items():
        if size % tensor:
            mend = ", or topology.parallel.sequence=false" if name.startswith("data.") else ""
            problem = f"{tensor} does not divide {name} {size}; choose one that does{mend}"
            yield ("parallel", "tensor"), problem


def _devices(topology: Topology) -> _Found:
    ranks, devices = rank_count(topology), device_count(topology)
    if ranks <= devices:
        return
    parallel, nodes = topology.parallel, topology.nodes
    sizes = f"data {data_size(topology)} x pipeline {parallel.pipeline} x tensor {parallel.tensor}"
    needed = -(-ranks // nodes.count)
    problem = (
        f"{sizes} are {ranks} ranks, more than the devices, {nodes.count} x {nodes.devices} = {devices}; "
        f"set topology.nodes.devices={needed}, or fewer ranks"
    )
    key = "data" if parallel.data != "auto" else "pipeline" if parallel.pipeline > 1 else "tensor"
    yield ("parallel", key), problem


def _batches(topology: Topology, train: TrainSection) -> _Found:
    data, micro = data_size(topology), train.micro_batch_size
    if train.global_batch_size % (micro * data):
        problem = (
            f"{train.global_batch_size} is no multiple of {micro * data}, which is "
            f"train.micro_batch_size {micro} x {data} data-parallel ranks (topology.parallel.data)"
        )
        yield ("train", "global_batch_size"), problem


def _whole_matrices(topology: Topology, job: Job) -> _Found:
    """What needs matrices that no rank has only a part of."""
    parallel = topology.parallel
    stage, tensor = parallel.zero_stage, parallel.tensor
    divided = f"topology.parallel.tensor is {tensor}; expected 1" if tensor > 1 else ""
    if isinstance(job, TrainingJob) and job.optimizer.name == "muon":
        sharded = divided or (f"topology.parallel.zero_stage is {stage}; expected 0" if stage else "")
        if sharded:
            yield ("optimizer", "name"), f"muon needs whole matrices, but {sharded}, or optimizer.name=adamw"


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
