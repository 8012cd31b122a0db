"""From a job, its topology and its network to the grid and the stages of a run, all checked before a rank starts."""

from dataclasses import dataclass

from yuan_manifest.schema import PlanJob, Precision, Topology, TrainingJob
from yuan_manifest.topology import check_division
from yuan_parallel.grid import Grid
from yuan_parallel.planner import planned_stages
from yuan_parallel.stages import StagePlan, uniform_stages
from yuan_parallel.training import Division, Network, Training, division_of, given_devices, training_of


@dataclass(frozen=True)
class ParallelPlan:
    """What a topology comes to for one run.

    Attributes:
        grid: the ranks.
        stages: transformer layers per pipeline stage.
        micro_batches: of one step, per data-parallel replica.
        zero_stage: DeepSpeed's ZeRO stage.
        sequence: whether tensor-parallel ranks share the sequence, too.
    """

    grid: Grid
    stages: StagePlan
    micro_batches: int
    zero_stage: int
    sequence: bool


def plan_parallel(
    topology: Topology, network: Network, job: TrainingJob | PlanJob, precision: Precision
) -> ParallelPlan:
    """Resolves what a topology leaves open (`auto`) for a job, and checks that they fit.

    Args:
        topology: the resolved topology section.
        network: the network's sizes.
        job: what is trained.
        precision: resolved.

    Raises:
        ManifestError: if the job cannot be divided so.
    """
    check_division(job, topology, network)
    division = resolve_division(topology, training_of(job, network, precision))
    return ParallelPlan(
        grid=Grid(pipeline=division.pipeline, data=division.data, tensor=division.tensor),
        stages=division.stages,
        micro_batches=job.train.global_batch_size // (job.train.micro_batch_size * division.data),
        zero_stage=division.zero_stage,
        sequence=division.sequence,
    )


def resolve_division(topology: Topology, training: Training) -> Division:
    """Returns a checked topology's division, its stages as written or found."""
    stages = topology.parallel.stages
    even = uniform_stages(training.network.num_hidden_layers, topology.parallel.pipeline)
    division = division_of(topology, even)
    if stages == "uniform":
        return division
    if stages == "auto":
        return division.with_stages(planned_stages(training, division, given_devices(topology.nodes)))
    return division.with_stages(StagePlan(tuple(stages)))
