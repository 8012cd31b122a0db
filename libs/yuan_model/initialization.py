"""First weights, the same however the model is divided over ranks.

Every parameter is drawn from a generator of its own, seeded by the run's seed and the parameter's full native name.
So a rank that holds three blocks starts with exactly the numbers that a single process would give them.
"""

import hashlib
import math

import torch
from torch import Tensor, nn

from yuan_model.config import YuanConfig

RESIDUAL_PROJECTIONS = ("o_proj.weight", "down_proj.weight")
"""Projections onto the residual stream; drawn smaller, since 2 a layer add up there (GPT-2, section 2.3)."""


def initialize_(module: nn.Module, config: YuanConfig, seed: int, prefix: str = "") -> None:
    """Sets every parameter of a model, or of a part of one, in place.

    Normal with standard deviation initializer_range; o_proj and down_proj initializer_range / sqrt(2 * layers);
    norms 1, biases 0.

    Args:
        module: `Yuan`, or a part of it such as one `Block`.
        config: of the whole model.
        seed: of the run.
        prefix: what precedes the module's own parameter names (`model.layers.3.` for a block).
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(initial_values(prefix + name, parameter.shape, config, seed))


def initial_values(name: str, shape: torch.Size, config: YuanConfig, seed: int) -> Tensor:
    """Returns the first values of one parameter, fp32 on the processor."""
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    scale = 1.0 / math.sqrt(2 * config.num_hidden_layers) if name.endswith(RESIDUAL_PROJECTIONS) else 1.0
    return torch.normal(0.0, config.initializer_range * scale, shape, generator=generator_of(name, seed))


def generator_of(name: str, seed: int) -> torch.Generator:
    """Returns the generator that a parameter's first values are drawn from."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "little", signed=True))
