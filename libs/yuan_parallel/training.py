"""What a cost or memory model is asked about, as values: what is trained, on what devices, divided how.

Units are plain throughout: bytes, seconds, floating-point operations (a multiply-add is two); what a manifest says in
GiB, gigabits and TFLOP/s is turned into these here, and nowhere else.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from yuan_manifest.schema import (
    FinetuneJob,
    FinetuneMethod,
    LoraSection,
    Nodes,
    PlanJob,
    Precision,
    Recompute,
    Topology,
    TrainingJob,
)
from yuan_manifest.topology import NetworkSizes, data_size
from yuan_parallel.stages import StagePlan

GIBIBYTE = 1 << 30
UNKNOWN_SPEED = 1e12
"""FLOP/s where a device's are not given: the unit then, since only ratios of times matter to a division."""


class Network(NetworkSizes, Protocol):
    """A network's sizes and switches as far as its cost depends on them: a `YuanConfig` or a manifest's section."""

    @property
    def localized_filtering(self) -> bool:
        """Whether queries and keys see the locally filtered input."""
        ...


@dataclass(frozen=True)
class Training:
    """A training, without on what it runs.

    Attributes:
        network: its sizes.
        sequence_length: tokens of a sample.
        global_batch_size: samples a step.
        micro_batch_size: samples that go through a stage at once.
        precision: number format; never `auto`.
        recompute: what the backward pass computes again.
        recompute_every: in the first layer of every so many.
        loss_block_tokens: see `TrainSection`.
        optimizer: its name.
        lora: low-rank additions that alone are trained, or None.
        tokens: of the whole training.
    """

    network: Network
    sequence_length: int
    global_batch_size: int
    micro_batch_size: int
    precision: Precision
    recompute: Recompute
    recompute_every: int
    loss_block_tokens: int | None
    optimizer: str
    lora: LoraSection | None
    tokens: int

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.micro_batch_size * self.sequence_length

    @property
    def step_tokens(self) -> int:
        """Tokens of a step over all replicas."""
        return self.global_batch_size * self.sequence_length

    @property
    def number_bytes(self) -> int:
        """Bytes of a weight, and of a number that goes from one rank to another."""
        return 4 if self.precision in (Precision.fp32, Precision.auto) else 2

    def recomputes(self, layer: int) -> bool:
        """Tells whether a layer, numbered over the whole network, is one whose activations are not kept."""
        return self.recompute != Recompute.none and layer % self.recompute_every == 0


@dataclass(frozen=True)
class Devices:
    """What a training runs on.

    Attributes:
        hosts: machines.
        per_host: devices of each.
        memory: bytes of a device; None: not known, so nothing is too large.
        speed: FLOP/s that a device reaches in matrix products.
        peak: FLOP/s of its data sheet.
        link: bytes/s, one way, between two devices of a host.
        network: bytes/s, one way, that a device has to another host.
    """

    hosts: int
    per_host: int
    memory: float | None
    speed: float
    peak: float
    link: float
    network: float

    @property
    def count(self) -> int:
        """Devices in all."""
        return self.hosts * self.per_host

    def bandwidth(self, extent: int) -> float:
        """Returns bytes/s within groups of `extent` ranks that follow each other: the network's once one crosses it."""
        return self.link if self.hosts == 1 or self.per_host % extent == 0 else self.network


@dataclass(frozen=True)
class Division:
    """How ranks share a training.

    Attributes:
        stages: transformer layers per pipeline stage.
        tensor: tensor-parallel size.
        data: replicas.
        zero_stage: DeepSpeed's ZeRO stage.
        sequence: whether the sequence is divided between the tensor-parallel matrices.
    """

    stages: StagePlan
    tensor: int
    data: int
    zero_stage: int
    sequence: bool

    @property
    def pipeline(self) -> int:
        """Pipeline stages."""
        return len(self.stages.layers)

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.pipeline * self.tensor * self.data

    def with_stages(self, stages: StagePlan) -> "Division":
        """Returns the same with other stages."""
        return replace(self, stages=stages)

    def micro_batches(self, training: Training) -> int:
        """Returns the micro-batches of a step that a replica computes."""
        return training.global_batch_size // (training.micro_batch_size * self.data)


def training_of(job: TrainingJob | PlanJob, network: Network, precision: Precision) -> Training:
    """Returns what a job trains.

    Args:
        job: the manifest.
        network: its sizes, which fine-tuning has from the model that it starts from.
        precision: resolved.
    """
    train = job.train
    tokens = train.steps * train.global_batch_size * job.data.sequence_length
    lora = isinstance(job, FinetuneJob) and job.finetune.method == FinetuneMethod.lora
    return Training(
        network=network,
        sequence_length=job.data.sequence_length,
        global_batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch_size,
        precision=precision,
        recompute=train.recompute.mode,
        recompute_every=train.recompute.every_layers,
        loss_block_tokens=train.loss_block_tokens,
        optimizer=job.optimizer.name if isinstance(job, TrainingJob) else "adamw",
        lora=job.finetune.lora if isinstance(job, FinetuneJob) and lora else None,
        tokens=job.plan.tokens if isinstance(job, PlanJob) and job.plan.tokens is not None else tokens,
    )


def given_devices(nodes: Nodes) -> Devices:
    """Returns the devices as far as a topology says what they are: what the planner divides by.

    What is measured differs a little each time, and a division must not: where the speed is not given, transfers are
    taken to cost nothing, and where the memory is not, nothing is too large.
    """
    known = nodes.tflops is not None
    link = _bytes_per_second(nodes.link_gbps) if known else None
    network = _bytes_per_second(nodes.network_gbps) if known else None
    speed = UNKNOWN_SPEED if nodes.tflops is None else nodes.tflops * 1e12
    return Devices(
        hosts=nodes.count,
        per_host=nodes.devices,
        memory=None if nodes.memory_gib is None else nodes.memory_gib * GIBIBYTE,
        speed=speed,
        peak=speed if nodes.peak_tflops is None else nodes.peak_tflops * 1e12,
        link=link or float("inf"),
        network=network or link or float("inf"),
    )


def division_of(topology: Topology, stages: StagePlan) -> Division:
    """Returns a topology's division with stages as given."""
    parallel = topology.parallel
    return Division(
        stages=stages,
        tensor=parallel.tensor,
        data=data_size(topology),
        zero_stage=parallel.zero_stage,
        sequence=parallel.sequence and parallel.tensor > 1,
    )


def _bytes_per_second(gigabits: float | None) -> float | None:
    return None if gigabits is None else gigabits * 1e9 / 8
