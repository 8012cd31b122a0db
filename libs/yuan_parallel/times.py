"""Time of one step by part: counted from this network's matrices (`exact`), or by the paper's printed formulas.

Parts: computing; waiting of stages for each other (bubble); handing activations and gradients from stage to stage
(pipeline); sums within layers (tensor); sums of gradients over replicas (data); gathering changed weights (optimizer).
Nothing is taken to overlap. The optimizer's own arithmetic, reading data and launching kernels are not counted.
"""

from dataclasses import asdict, dataclass

from yuan_manifest.schema import Recompute
from yuan_parallel.cost import embedding_parameters, lora_parameters, stage_flops
from yuan_parallel.memory import FLOAT, stage_parameters
from yuan_parallel.simulation import Simulation, StageSeconds, simulate
from yuan_parallel.training import Devices, Division, Network, Training


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of a step by part.

    Attributes:
        compute: matrix products, the mean over the stages.
        bubble: in which a stage waits, uneven stages included.
        pipeline: between stages.
        tensor: within layers.
        data: of gradients, over replicas (with ZeRO 3 of weights, too).
        optimizer: of changed weights, over replicas.
    """

    compute: float
    bubble: float
    pipeline: float
    tensor: float
    data: float
    optimizer: float

    @property
    def total(self) -> float:
        """All parts."""
        return sum(asdict(self).values())

    @property
    def waiting(self) -> float:
        """The bubble as a share of the time in which a pipeline computes or waits."""
        return self.bubble / (self.compute + self.bubble)

    def to_dict(self) -> dict[str, float]:
        """Returns seconds by part, `total` among them."""
        return {**asdict(self), "total": self.total}


def exact_seconds(training: Training, division: Division, devices: Devices) -> StepSeconds:
    """Returns a step's time by simulating its schedule with what each stage computes and sends."""
    micro_batches = division.micro_batches(training)
    with_transfers = stage_seconds(training, division, devices)
    tensor = [micro_batches * sum(tensor_seconds(training, division, devices, stage)) for stage in _stages(division)]
    computed = simulate([StageSeconds(one.forward, one.backward) for one in with_transfers], micro_batches)
    sent = computed if division.pipeline == 1 else simulate(with_transfers, micro_batches)
    busy = sum(computed.busy) / division.pipeline
    in_layers = sum(tensor) / division.pipeline
    return StepSeconds(
        compute=busy - in_layers,
        bubble=max(0.0, computed.seconds - busy),
        pipeline=max(0.0, sent.seconds - computed.seconds),
        tensor=in_layers,
        data=_reduce_all(training, division, devices),
        optimizer=_gather_all(training, division, devices),
    )


def simulated_seconds(training: Training, division: Division, devices: Devices) -> float:
    """Returns `exact_seconds(...).total`."""
    step = simulate(stage_seconds(training, division, devices), division.micro_batches(training))
    return step.seconds + ends_seconds(training, division, devices)


def quick_seconds(training: Training, division: Division, devices: Devices) -> float:
    """Returns about `exact_seconds(...).total` without simulating: as if the slowest stage alone set the pace."""
    stages = stage_seconds(training, division, devices)
    paces = [one.forward + one.backward + 2 * one.transfer for one in stages]
    filled = sum(paces) + (division.micro_batches(training) - 1) * max(paces)
    return filled + ends_seconds(training, division, devices)


def ends_seconds(training: Training, division: Division, devices: Devices) -> float:
    """Returns the seconds of what follows a step's last micro-batch: its parts `data` and `optimizer`."""
    return _reduce_all(training, division, devices) + _gather_all(training, division, devices)


def _reduce_all(training: Training, division: Division, devices: Devices) -> float:
    return max(_reduce_seconds(training, division, devices, stage) for stage in _stages(division))


def _gather_all(training: Training, division: Division, devices: Devices) -> float:
    return max(_gather_seconds(training, division, devices, stage) for stage in _stages(division))


def simulated_step(training: Training, division: Division, devices: Devices, micro_batches: int) -> Simulation:
    """Returns the first micro-batches of a step with every pass, for a picture."""
    return simulate(stage_seconds(training, division, devices), micro_batches, spans=True)


def stage_seconds(training: Training, division: Division, devices: Devices) -> list[StageSeconds]:
    """Returns what a micro-batch takes in each stage, sums within layers included."""
    return [seconds_of_stage(training, division, devices, stage) for stage in _stages(division)]


def seconds_of_stage(training: Training, division: Division, devices: Devices, stage: int) -> StageSeconds:
    """Returns what a micro-batch takes in one stage."""
    flops = stage_flops(training, _layers(division, stage), division.tensor)
    forward, backward = tensor_seconds(training, division, devices, stage)
    has_next = stage < division.pipeline - 1
    return StageSeconds(
        forward=flops.forward / devices.speed + forward,
        backward=flops.backward / devices.speed + backward,
        transfer=_boundary_bytes(training, division) / _boundary(division, devices, stage) if has_next else 0.0,
    )


def tensor_seconds(training: Training, division: Division, devices: Devices, stage: int) -> tuple[float, float]:
    """Returns the seconds of sums within a stage's layers for one micro-batch, forward and backward.

    Each layer sums two outputs forward, and the gradients of three inputs backward (values, queries and keys,
    feed-forward); the first stage sums the embedding's rows, the last the gradient of the logits' input.
    """
    if division.tensor == 1:
        return 0.0, 0.0
    layers, network = _layers(division, stage), training.network
    again = sum(training.recomputes(layer) for layer in layers) if training.recompute == Recompute.full else 0
    forward = 2 * len(layers) + (layers.start == 0)
    backward = 3 * len(layers) + 2 * again + (layers.stop == network.num_hidden_layers)
    numbers = training.micro_batch_tokens * network.hidden_size
    a_sum = _sum_seconds(numbers * training.number_bytes, division.tensor, devices.bandwidth(division.tensor))
    return forward * a_sum, backward * a_sum


def _sum_seconds(size: float, ranks: int, bandwidth: float) -> float:
    """Seconds to sum `size` bytes over ranks in a ring: twice (n - 1) / n of them go out of each rank."""
    return 2 * size * (ranks - 1) / ranks / bandwidth


def _stages(division: Division) -> range:
    return range(division.pipeline)


def _layers(division: Division, stage: int) -> range:
    bounds = division.stages.bounds
    return range(bounds[stage], bounds[stage + 1])


def _boundary_bytes(training: Training, division: Division) -> float:
    numbers = training.micro_batch_tokens * training.network.hidden_size
    return numbers * training.number_bytes / (division.tensor if division.sequence else 1)


def _boundary(division: Division, devices: Devices, stage: int) -> float:
    """Bytes/s from a stage's ranks to the next one's, which follow them: the network's if they lie on two hosts."""
    extent = division.data * division.tensor
    first, last = stage * extent, (stage + 2) * extent - 1
    return devices.link if first // devices.per_host == last // devices.per_host else devices.network


def _replicas(division: Division, devices: Devices) -> float:
    """Bytes/s between the replicas of a stage."""
    return devices.bandwidth(division.data * division.tensor)


def _reduce_seconds(training: Training, division: Division, devices: Devices, stage: int) -> float:
    layers, zero = _layers(division, stage), division.zero_stage
    parameters = stage_parameters(training, division, layers)
    bandwidth, replicas = _replicas(division, devices), division.data
    summed = _sum_seconds(_gradient_bytes(training, division, stage), replicas, bandwidth)
    seconds = summed / 2 if zero >= 2 else summed
    if zero == 3:
        # Weights are gathered for the forward and again for the backward pass of every micro-batch.
        gathered = parameters * training.number_bytes * (replicas - 1) / replicas / bandwidth
        seconds += 2 * division.micro_batches(training) * gathered
    if division.pipeline > 1 and stage in (0, division.pipeline - 1) and training.lora is None:
        tied = embedding_parameters(training.network) // division.tensor * FLOAT
        far = devices.link if division.ranks <= devices.per_host or devices.hosts == 1 else devices.network
        seconds += _sum_seconds(tied, 2, far)
    return seconds


def _gather_seconds(training: Training, division: Division, devices: Devices, stage: int) -> float:
    if division.zero_stage in (0, 3):
        return 0.0
    size = _gradient_bytes(training, division, stage) / FLOAT * training.number_bytes
    return _sum_seconds(size, division.data, _replicas(division, devices)) / 2


def _gradient_bytes(training: Training, division: Division, stage: int) -> float:
    """Bytes of a stage's fp32 gradients."""
    layers = _layers(division, stage)
    if training.lora is not None:
        return len(layers) * lora_parameters(training, division.tensor) * FLOAT
    return stage_parameters(training, division, layers) * FLOAT


# --- the paper's formulas (arXiv 2311.15786, section 3.4, appendices C and D; YUAN_FACTS A4) -----------------------


def paper_parameters(network: Network, sequence_length: int) -> float:
    """Returns P_h as printed; with localized filtering right only where the sequence is about half the width."""
    layers, hidden = network.num_hidden_layers, network.hidden_size
    s, v = sequence_length, network.vocab_size
    if network.localized_filtering:
        bracket = 1 + (1 + s) / (4 * hidden) + s / (16 * hidden**2) + v / (16 * layers * hidden)
        return 16 * layers * hidden**2 * bracket
    return 12 * layers * hidden**2 * (1 + 13 / (12 * hidden) + v / (12 * layers * hidden))


def paper_seconds(training: Training, division: Division, devices: Devices) -> StepSeconds:
    """Returns T0 to T4 as printed, T0 with full recomputation in it; stages are taken to be even.

    n * BW_net is what the tensor-parallel ranks of one stage have together. A stage's boundary is the link's where a
    replica fits into a host, else it is that. The optimizer's term stands where ZeRO is on (Method 2), as printed.
    """
    network = training.network
    micro_batches = division.micro_batches(training)
    hidden, layers, s = network.hidden_size, network.num_hidden_layers, training.sequence_length
    pipeline, tensor, data = division.pipeline, division.tensor, division.data
    work, width, sums = (128, 8, 64) if network.localized_filtering else (96, 6, 48)
    a_b_s = micro_batches * training.micro_batch_tokens
    computed = work * a_b_s * layers * hidden**2 * (1 + s / (width * hidden)) / (pipeline * tensor * devices.speed)
    between_hosts = devices.network * tensor
    boundary = devices.link if pipeline * tensor <= devices.per_host else between_hosts
    shared = paper_parameters(network, s) * (data - 1) / data / (pipeline * between_hosts)
    return StepSeconds(
        compute=computed,
        bubble=computed * (pipeline - 1) / micro_batches,
        pipeline=8 * a_b_s * hidden / boundary if pipeline > 1 else 0.0,
        tensor=sums * layers * (tensor - 1) / (pipeline * tensor * devices.link) * a_b_s * hidden,
        data=4 * shared,
        optimizer=8 * shared if division.zero_stage else 0.0,
    )
