"""What a training on given devices comes to: parameters, memory, time, speed, days; all that `yuan plan` shows."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from yuan_manifest.schema import CostModel
from yuan_parallel.cost import model_flops_per_token, parameter_count, recomputed_flops_per_token
from yuan_parallel.memory import StageMemory, memory_of_stages
from yuan_parallel.times import StepSeconds, exact_seconds, paper_parameters, paper_seconds
from yuan_parallel.training import Devices, Division, Training

SECONDS_A_DAY = 86400


@dataclass(frozen=True)
class Prediction:
    """A training, divided so, on such devices, by one of the two cost models.

    Memory is counted alike under both: the paper prints no formula of it.
    """

    training: Training
    division: Division
    devices: Devices
    cost_model: CostModel = CostModel.exact

    @cached_property
    def parameters(self) -> int:
        """Trainable numbers of the network."""
        network = self.training.network
        if self.cost_model == CostModel.paper:
            return round(paper_parameters(network, self.training.sequence_length))
        return parameter_count(network)

    @cached_property
    def memory(self) -> list[StageMemory]:
        """Of one device of each stage."""
        return memory_of_stages(self.training, self.division)

    @property
    def peak(self) -> float:
        """Bytes of the fullest device."""
        return max(stage.total for stage in self.memory)

    @property
    def fits(self) -> bool:
        """Whether every stage fits into its device."""
        return self.devices.memory is None or self.peak <= self.devices.memory

    @cached_property
    def seconds(self) -> StepSeconds:
        """Of one step."""
        model = paper_seconds if self.cost_model == CostModel.paper else exact_seconds
        return model(self.training, self.division, self.devices)

    @property
    def tokens_per_second(self) -> float:
        """Over all replicas."""
        return self.training.step_tokens / self.seconds.total

    @property
    def mfu(self) -> float:
        """Of all ranks' data-sheet FLOP/s, the share that 6N + 12LHS a token are."""
        return self._share(6.0 * self.parameters + self._attention)

    @property
    def hfu(self) -> float:
        """The same with what is computed twice."""
        return self._share(6.0 * self.parameters + self._attention + recomputed_flops_per_token(self.training))

    @property
    def days(self) -> float:
        """To the end of the training."""
        return self.training.tokens / self.tokens_per_second / SECONDS_A_DAY

    @property
    def _attention(self) -> float:
        return model_flops_per_token(self.training) - 6.0 * parameter_count(self.training.network)

    def _share(self, flops_per_token: float) -> float:
        return flops_per_token * self.tokens_per_second / (self.division.ranks * self.devices.peak)

    def to_dict(self) -> dict[str, Any]:
        """Returns the figures as JSON's types."""
        division = self.division
        return {
            "cost_model": self.cost_model.value,
            "parameters": self.parameters,
            "pipeline": division.pipeline,
            "tensor": division.tensor,
            "data": division.data,
            "ranks": division.ranks,
            "zero_stage": division.zero_stage,
            "stages": list(division.stages.layers),
            "micro_batches": division.micro_batches(self.training),
            "time_s": self.seconds.to_dict(),
            "memory_bytes": [stage.to_dict() for stage in self.memory],
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "hfu": self.hfu,
            "bubble": self.seconds.waiting,
            "days": self.days,
        }
