"""DeepSpeed's engines as this trainer uses them, behind one interface: a step, an evaluation, the rank's layers.

With a pipeline DeepSpeed's `PipelineEngine` runs (ZeRO-1), without one its plain engine (ZeRO 0 to 3). What is known of
DeepSpeed's traps is written where it matters; nothing else in the trainer imports DeepSpeed's engines.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import deepspeed
import torch
import torch.distributed
from deepspeed.runtime.pipe.topology import PipelineParallelGrid, PipeModelDataParallelTopology
from torch import Tensor, nn

from yuan_manifest.schema import Precision
from yuan_model import ModelFolder
from yuan_parallel import Grid, StagePlan
from yuan_parallel.tensor import TensorGroup
from yuan_trainer.batches import MicroBatch
from yuan_trainer.combinations import engine_zero_stage
from yuan_trainer.network import LayerOptions, WholeNetwork
from yuan_trainer.optimizers import make_optimizer
from yuan_trainer.pipeline import YuanPipeline
from yuan_trainer.specification import Specification

Accept = Callable[[float, float], bool]
"""Decides on a step by its loss and its gradient norm (before clipping), the same on every rank."""


@dataclass(frozen=True)
class StepResult:
    """What a step came to.

    Attributes:
        loss: mean over the micro-batches of the whole step, nats per token.
        gradient_norm: of all gradients before clipping; infinite where one was not finite.
        applied: whether the weights changed.
    """

    loss: float
    gradient_norm: float
    applied: bool


class Engine(ABC):
    """One rank's part of the training.

    Attributes:
        module: this rank's layers; `native_parameters()` and `tied_embedding()` name their parameters.
        deepspeed: DeepSpeed's engine.
        tensor: the ranks that share this one's matrices.
    """

    def __init__(self, engine: Any, specification: Specification, tensor: TensorGroup, optimizer: Any) -> None:
        self.deepspeed = engine
        self.module: Any = engine.module
        self.tensor = tensor
        self.zero_stage = engine_zero_stage(specification)
        self._grid = specification.grid
        self._micro_batches = specification.micro_batches // specification.replicas
        self._clip = specification.optimizer.clip_grad
        self._gate = _Gate(optimizer, self._decide)
        self._accept: Accept = _always
        self._loss = 0.0
        self._norm = 0.0

    def train_step(
        self, batches: Iterator[MicroBatch], learning_rate: float, accept: Accept | None = None
    ) -> StepResult:
        """One optimizer step over a global batch; a collective.

        Args:
            batches: this replica's micro-batches.
            learning_rate: of this step.
            accept: asked on every rank before the weights change; where it says no, the gradients are dropped.
        """
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate
        self._accept = accept or _always
        self._gate.close()
        self._run_step(batches)
        if self._gate.asked:
            return StepResult(self._loss, self._norm, self._gate.is_open)
        # DeepSpeed dropped the gradients itself: one was not finite, or the loss scale was too large for fp16.
        self._loss = self._global_loss()
        self._accept(self._loss, math.inf)
        return StepResult(self._loss, math.inf, applied=False)

    @abstractmethod
    def evaluate(self, batches: Iterator[MicroBatch], count: int) -> float:
        """Returns the mean loss of micro-batches without training on them; a collective.

        Args:
            batches: this replica's.
            count: how many they are.
        """

    @abstractmethod
    def _run_step(self, batches: Iterator[MicroBatch]) -> None:
        """Forward, backward, and the optimizer's step through the gate."""

    @abstractmethod
    def _own_loss(self) -> float:
        """Returns the mean loss of this replica's micro-batches; 0 on stages that have none."""

    def _decide(self) -> bool:
        self._loss = self._global_loss()
        self._norm = self._gradient_norm()
        accepted = self._accept(self._loss, self._norm)  # asked in any case: it counts what goes wrong
        return accepted and math.isfinite(self._norm)

    def _global_loss(self) -> float:
        """Returns the mean loss over all replicas, on every rank; a collective."""
        total = torch.tensor(self._own_loss(), dtype=torch.float64, device=self.deepspeed.device)
        torch.distributed.all_reduce(total)
        return float(total) / (self._grid.data * self._grid.tensor)

    def _gradient_norm(self) -> float:
        return float(self.deepspeed.optimizer._global_grad_norm)


class PipelineTraining(Engine):
    """Several stages, one forward and one backward pass at a time (1F1B)."""

    def evaluate(self, batches: Iterator[MicroBatch], count: int) -> float:
        """See `Engine.evaluate`."""
        return float(self.deepspeed.eval_batch(batches, num_micro_batches=count))

    def _run_step(self, batches: Iterator[MicroBatch]) -> None:
        self.deepspeed.train_batch(batches)

    def _own_loss(self) -> float:
        if not self.deepspeed.is_last_stage():
            return 0.0
        return float(self.deepspeed.total_loss) / self._micro_batches


class PlainTraining(Engine):
    """All layers on every rank."""

    def evaluate(self, batches: Iterator[MicroBatch], count: int) -> float:
        """See `Engine.evaluate`."""
        self.deepspeed.eval()
        with torch.no_grad():
            self._losses = [self._forward(next(batches)) for _ in range(count)]
        self.deepspeed.train()
        return self._global_loss()

    def _run_step(self, batches: Iterator[MicroBatch]) -> None:
        self._losses: list[Tensor] = []
        for _ in range(self._micro_batches):
            loss = self._forward(next(batches))
            self.deepspeed.backward(loss)
            self._losses.append(loss.detach())
            self.deepspeed.step()

    def _forward(self, batch: MicroBatch) -> Tensor:
        inputs, (labels, mask) = batch
        device = self.deepspeed.device
        return self.deepspeed(inputs.to(device), labels.to(device), mask.to(device))

    def _own_loss(self) -> float:
        return float(torch.stack(self._losses).double().mean())

    def _gradient_norm(self) -> float:
        if self.zero_stage:
            return super()._gradient_norm()
        # Without ZeRO DeepSpeed leaves the optimizer alone; its clipping does not say what it found.
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        # What every tensor rank has whole counts once.
        counted = [p.grad for p in parameters if getattr(p, "model_parallel", False) or self.tensor.rank == 0]
        norms = cast("Any", torch)._foreach_norm(counted, dtype=torch.float32) if counted else []
        squares = torch.stack([*norms, torch.zeros((), device=self.deepspeed.device)]).square().sum()
        if self.tensor.size > 1:
            torch.distributed.all_reduce(squares, group=self.tensor.group)
        norm = float(squares.sqrt())
        if self._clip and norm > self._clip:
            for parameter in parameters:
                parameter.grad.mul_(self._clip / (norm + 1e-6))
        return norm


class _Gate:
    """Stands in front of torch's optimizer, which every kind of ZeRO calls once its gradients are whole.

    Attributes:
        asked: whether the optimizer was called in this step.
        is_open: what was decided then.
    """

    def __init__(self, optimizer: Any, decide: Callable[[], bool]) -> None:
        self._step = optimizer.step
        self._decide = decide
        self.close()
        optimizer.step = self

    def close(self) -> None:
        """Makes the next call ask."""
        self.asked = self.is_open = False

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Steps if that was decided; ZeRO calls once a group of parameters, and all of them stand or fall together."""
        if not self.asked:
            self.is_open = self._decide()
            self.asked = True
        return self._step(*arguments, **options) if self.is_open else None


def _always(_loss: float, _norm: float) -> bool:
    return True


def _average_of_one(*_arguments: Any, **_options: Any) -> None:
    return


def build_engine(specification: Specification) -> Engine:
    """Returns the engine of this rank, its weights at their first values; a collective."""
    grid = specification.grid
    torch.manual_seed(specification.train.seed)
    tensor = tensor_group(grid, sequence=specification.sequence)
    options = LayerOptions(
        specification.model,
        specification.train,
        tensor,
        reset_position_ids=specification.data.reset_position_ids,
        start=None if specification.start_from is None else ModelFolder(specification.start_from),
        lora=specification.lora,
    )
    topology = PipeModelDataParallelTopology(num_pp=grid.pipeline, num_mp=grid.tensor, num_dp=grid.data)
    if grid.pipeline > 1:
        module: nn.Module = YuanPipeline(options, StagePlan(specification.stages), topology)
        mpu = None
    else:
        module = WholeNetwork(options)
        mpu = PipelineParallelGrid(topology=topology) if grid.tensor > 1 else None
    optimizer = make_optimizer(module.named_parameters(), specification.optimizer)
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, mpu=mpu, config=deepspeed_configuration(specification)
    )
    if grid.data == 1:
        # There is nothing to average, yet DeepSpeed would copy all gradients there and back (0.19.8).
        engine.buffered_allreduce_fallback = _average_of_one
    kind = PipelineTraining if grid.pipeline > 1 else PlainTraining
    return kind(engine, specification, tensor, optimizer)


def tensor_group(grid: Grid, *, sequence: bool) -> TensorGroup:
    """Returns the ranks that share this rank's matrices; a collective of all ranks."""
    if grid.tensor == 1:
        return TensorGroup()
    rank = torch.distributed.get_rank()
    own: Any = None
    for ranks in grid.tensor_groups():
        group = torch.distributed.new_group(ranks)
        if rank in ranks:
            own = group
    return TensorGroup(grid.tensor, grid.tensor_rank(rank), own, sequence)


def deepspeed_configuration(specification: Specification) -> dict[str, Any]:
    """Returns DeepSpeed's configuration of a run."""
    train, stage = specification.train, engine_zero_stage(specification)
    configuration: dict[str, Any] = {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": specification.micro_batches // specification.replicas,
        # Without ZeRO we clip ourselves (`PlainTraining`).
        "gradient_clipping": specification.optimizer.clip_grad if stage else 0.0,
        # With stage 0 and a pipeline, tied weights count twice in the clipping norm and the run diverges.
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        # Every tensor rank takes part in what a stage sends: nothing is divided on the way and put together again.
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False},
        "steps_per_print": 1 << 60,
        "zero_allow_untested_optimizer": True,
    }
    if train.precision == Precision.bf16:
        # By default gradients accumulate in bf16; with fp32 the masters and moments are fp32 as well.
        configuration["bf16"] = {"enabled": True, "check_grad_overflow": True}
        configuration["data_types"] = {"grad_accum_dtype": "fp32"}
    if train.precision == Precision.fp16:
        configuration["fp16"] = {"enabled": True, "loss_scale": 0}
        configuration["data_types"] = {"grad_accum_dtype": "fp32"}
    return cast("dict[str, Any]", configuration)
