"""Between an optimizer's state as ranks divide it and full tensors under global names.

- ZeRO 1 and 2 flatten the parameters of a group and give every data-parallel rank one slice: its fp32 masters and
  moments. `_hp_mapping` on a parameter tells which piece of it lies where in this rank's slice.
- ZeRO 3 divides every parameter itself; DeepSpeed's own functions put it together.
- Without ZeRO, torch's optimizer has the parameter and its moments whole.

Tensor-parallel parts are put together after that. Reading is a collective over the ranks that share a stage; writing is
local where every rank has its piece, since every rank is given the full tensor.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.distributed
from deepspeed.runtime.zero import GatheredParameters
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
)
from deepspeed.utils.tensor_fragment import tensor_fragment
from torch import Tensor, nn

from yuan_checkpoint.training_state import PARTS
from yuan_parallel.tensor import shard, unshard
from yuan_trainer.engine import Engine

MASTER, *MOMENTS = PARTS


def gather_parts(engine: Engine, name: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Returns a parameter's fp32 tensors by part, in the shape of the undivided network; a collective."""
    gather = {0: _gather_plain, 3: _gather_weights}.get(engine.zero_stage, _gather_slices)
    return {part: unshard(name, tensor, engine.tensor) for part, tensor in gather(engine, parameter).items()}


def scatter_parts(engine: Engine, name: str, parameter: nn.Parameter, parts: Mapping[str, Tensor]) -> None:
    """Puts full fp32 tensors where this rank keeps its piece of them, and the weights themselves; a collective."""
    own = {part: shard(name, tensor, engine.tensor).to(engine.deepspeed.device) for part, tensor in parts.items()}
    scatter = {0: _scatter_plain, 3: _scatter_weights}.get(engine.zero_stage, _scatter_slices)
    with torch.no_grad():
        scatter(engine, parameter, own)


def full_weight(engine: Engine, name: str, parameter: nn.Parameter) -> Tensor:
    """Returns a weight as it is trained with, on the processor, in the shape of the undivided network; a collective."""
    if engine.zero_stage < 3:
        return unshard(name, parameter.detach(), engine.tensor).cpu()
    with GatheredParameters([parameter]):
        return unshard(name, parameter.detach(), engine.tensor).cpu().clone()


def set_step_count(engine: Engine, step: int) -> None:
    """Tells Adam how many steps its moments contain (its bias correction)."""
    for state in _states(engine):
        state["step"].fill_(float(step))


# --- without ZeRO --------------------------------------------------------------------------------------------------


def _gather_plain(engine: Engine, parameter: nn.Parameter) -> dict[str, Tensor]:
    state = _state(engine, parameter)
    # Copies: training goes on while a state is written.
    return {MASTER: parameter.detach().float().clone(), **{part: state[part].clone() for part in MOMENTS}}


def _scatter_plain(engine: Engine, parameter: nn.Parameter, parts: Mapping[str, Tensor]) -> None:
    parameter.copy_(parts[MASTER])
    state = _state(engine, parameter)
    for part in MOMENTS:
        state[part].copy_(parts[part])


# --- ZeRO 1 and 2 --------------------------------------------------------------------------------------------------


def _gather_slices(engine: Engine, parameter: nn.Parameter) -> dict[str, Tensor]:
    # DeepSpeed's own `safe_get_full_optimizer_state` cannot be used: it links the moments after the first group has
    # stepped, when those of the second do not exist yet (0.19.8, fp32), and finds nothing for norms and biases.
    group = engine.deepspeed.seq_data_parallel_group
    mapping = cast("tensor_fragment | None", cast("Any", parameter)._hp_mapping)
    parts: dict[str, Tensor] = {}
    for part in PARTS:
        full = torch.zeros(parameter.numel(), dtype=torch.float32, device=parameter.device)
        if mapping is not None:
            source = mapping.lp_fragment_address
            full.narrow(0, source.start, source.numel).copy_(_piece(engine, mapping, part))
        if torch.distributed.get_world_size(group) > 1:
            torch.distributed.all_reduce(full, group=group)
        parts[part] = full.reshape(parameter.shape)
    return parts


def _scatter_slices(engine: Engine, parameter: nn.Parameter, parts: Mapping[str, Tensor]) -> None:
    parameter.data.copy_(parts[MASTER])
    mapping = cast("Any", parameter)._hp_mapping
    if mapping is None:  # this rank's slice holds nothing of the parameter
        return
    source = mapping.lp_fragment_address
    for part in PARTS:
        _piece(engine, mapping, part).copy_(parts[part].flatten().narrow(0, source.start, source.numel))


def _piece(engine: Engine, mapping: Any, part: str) -> Tensor:
    """Returns the view of this rank's flat slice that belongs to a parameter."""
    target = mapping.hp_fragment_address
    flat = _slices(engine)[mapping.param_group_index]
    whole = flat.data if part == MASTER else _state(engine, flat)[part]
    return whole.narrow(0, target.start, target.numel)


def _slices(engine: Engine) -> list[Tensor]:
    optimizer = engine.deepspeed.optimizer
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # fp32 with ZeRO 1, all formats with ZeRO 2
        return optimizer.single_partition_of_fp32_groups
    return optimizer.fp32_groups_flat_partition  # 16 bits and fp32 accumulation with ZeRO 1


# --- ZeRO 3 --------------------------------------------------------------------------------------------------------


def _gather_weights(engine: Engine, parameter: nn.Parameter) -> dict[str, Tensor]:
    list(_states(engine))
    parts = {MASTER: safe_get_full_fp32_param(parameter)}
    parts |= {part: safe_get_full_optimizer_state(parameter, part) for part in MOMENTS}
    return {part: cast("Tensor", tensor).float() for part, tensor in parts.items()}


def _scatter_weights(engine: Engine, parameter: nn.Parameter, parts: Mapping[str, Tensor]) -> None:
    # DeepSpeed's own `safe_set_full_fp32_param` leaves the weights that the next step computes with as they are, and
    # fails where a parameter's size is no multiple of the ranks (0.19.8).
    optimizer = engine.deepspeed.optimizer
    group, start, count = optimizer.grad_position[optimizer.get_param_id(parameter)]
    first = count * torch.distributed.get_rank(engine.deepspeed.seq_data_parallel_group)
    flat = optimizer.fp32_partitioned_groups_flat[group]
    for part in PARTS:
        whole = flat.data if part == MASTER else _state(engine, flat)[part]
        piece = parts[part].flatten()[first : first + count]  # the last one is padded
        whole.narrow(0, start, piece.numel()).copy_(piece)
    with GatheredParameters([parameter], modifier_rank=0):
        parameter.copy_(parts[MASTER])


# -------------------------------------------------------------------------------------------------------------------


def _states(engine: Engine) -> Iterator[dict[str, Tensor]]:
    """Yields torch's state of everything that this rank's optimizer steps."""
    if engine.zero_stage == 0:
        yield from (_state(engine, parameter) for parameter in engine.module.parameters() if parameter.requires_grad)
    elif engine.zero_stage == 3:
        yield from (_state(engine, flat) for flat in engine.deepspeed.optimizer.fp32_partitioned_groups_flat)
    else:
        yield from (_state(engine, flat) for flat in _slices(engine))


def _state(engine: Engine, stepped: Tensor) -> dict[str, Tensor]:
    optimizer = engine.deepspeed.optimizer
    state = (optimizer if engine.zero_stage == 0 else optimizer.optimizer).state[stepped]
    if "step" not in state:
        # What torch's AdamW makes at its first step (fused: the counter is an fp32 tensor on the device).
        state["step"] = torch.zeros((), dtype=torch.float32, device=stepped.device)
        state["exp_avg"] = torch.zeros_like(stepped.data)
        state["exp_avg_sq"] = torch.zeros_like(stepped.data)
    return state
