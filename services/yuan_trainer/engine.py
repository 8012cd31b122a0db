"""DeepSpeed's engine as this trainer uses it: configuration, optimizer, one object.

What is known of DeepSpeed's traps is written where it matters; nothing else in the trainer imports DeepSpeed's
engine.
"""

from typing import Any

import deepspeed
import torch
from torch import nn

from yuan_manifest.schema import OptimizerSection, Precision
from yuan_parallel import Grid, StagePlan
from yuan_trainer.pipeline import YuanPipeline
from yuan_trainer.specification import Specification


def build_engine(specification: Specification, grid: Grid) -> Any:
    """Returns the pipeline engine of this rank, its weights at their first values."""
    torch.manual_seed(specification.train.seed)
    module = YuanPipeline(specification.model, StagePlan(specification.stages), grid, specification.train.seed)
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=make_optimizer(module, specification.optimizer),
        config=deepspeed_configuration(specification, grid),
    )
    return engine


def make_optimizer(module: nn.Module, optimizer: OptimizerSection) -> torch.optim.AdamW:
    """Returns AdamW over a module's parameters; norms and biases are not decayed.

    An object, since DeepSpeed compiles its own AdamW (85 s) when asked for one by name.
    """
    parameters = list(module.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optimizer.weight_decay},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=optimizer.lr,
        betas=(optimizer.betas[0], optimizer.betas[1]),
        eps=optimizer.eps,
        fused=True,
    )


def deepspeed_configuration(specification: Specification, grid: Grid) -> dict[str, Any]:
    """Returns DeepSpeed's configuration of a run."""
    train = specification.train
    configuration: dict[str, Any] = {
        "train_batch_size": train.global_batch_size,
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": specification.micro_batches // grid.data,
        "gradient_clipping": specification.optimizer.clip_grad,
        # With stage 0, tied weights count twice in the clipping norm and the run diverges.
        "zero_optimization": {"stage": 1, "overlap_comm": False},
        "steps_per_print": 1 << 60,
        "zero_allow_untested_optimizer": True,
    }
    if train.precision == Precision.bf16:
        # By default gradients accumulate in bf16; with fp32 the masters and moments are fp32 as well.
        configuration["bf16"] = {"enabled": True}
        configuration["data_types"] = {"grad_accum_dtype": "fp32"}
    return configuration


def set_learning_rate(engine: Any, learning_rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
