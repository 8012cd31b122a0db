"""All topologies of the same devices that a job can run under, each with the planner's stages, and the best of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from yuan_manifest import ManifestError
from yuan_manifest.schema import CostModel, Parallel, PlanJob, Topology, TrainingJob
from yuan_manifest.topology import check_division, device_count
from yuan_parallel.memory import memory_of_stages
from yuan_parallel.plan import resolve_division
from yuan_parallel.prediction import Prediction
from yuan_parallel.stages import uniform_stages
from yuan_parallel.training import Devices, Training, division_of


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        fitting: topologies that fit, the quickest first.
        too_large: how many others do not.
    """

    fitting: list[Prediction]
    too_large: int


def sweep(
    job: TrainingJob | PlanJob, topology: Topology, training: Training, devices: Devices, cost_model: CostModel
) -> Sweep:
    """Compares all topologies that use every device.

    Args:
        job: what is trained.
        topology: whose devices are divided.
        training: of the job.
        devices: what they reach.
        cost_model: how is counted.
    """
    fitting: list[Prediction] = []
    too_large = 0
    for candidate in _topologies(job, topology, training):
        even = division_of(candidate, uniform_stages(training.network.num_hidden_layers, candidate.parallel.pipeline))
        # The planner never needs more memory than even stages; where even those of one layer do not fit, nothing does.
        smallest = min(stage.total for stage in memory_of_stages(training, even))
        if devices.memory is not None and smallest > devices.memory:
            too_large += 1
            continue
        found = Prediction(training, resolve_division(candidate, training), devices, cost_model)
        if found.fits:
            fitting.append(found)
        else:
            too_large += 1
    return Sweep(sorted(fitting, key=lambda one: (one.seconds.total, one.peak)), too_large)


def _topologies(job: TrainingJob | PlanJob, topology: Topology, training: Training) -> Iterator[Topology]:
    ranks, per_host = device_count(topology), topology.nodes.devices
    for tensor in _divisors(per_host):  # sums within layers never leave a host
        for pipeline in _divisors(ranks // tensor):
            for zero_stage in (1,) if pipeline > 1 else (0, 1) if tensor > 1 else (0, 1, 2, 3):
                parallel = Parallel(
                    pipeline=pipeline,
                    stages="auto",
                    tensor=tensor,
                    sequence=topology.parallel.sequence,
                    data=ranks // tensor // pipeline,
                    zero_stage=zero_stage,
                )
                candidate = replace(topology, parallel=parallel)
                try:
                    check_division(job, candidate, training.network)
                except ManifestError:
                    continue
                yield candidate


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]
