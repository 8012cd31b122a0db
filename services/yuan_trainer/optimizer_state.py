"""Between DeepSpeed's flat, divided optimizer state and full tensors under global names.

DeepSpeed (ZeRO-1) flattens the parameters of a group and gives every data-parallel rank one slice: its fp32 masters
and Adam's moments. `_hp_mapping` on a parameter tells which piece of it lies where in this rank's slice. Reading is a
collective over the data-parallel ranks of a stage; writing is local, since every rank is given the full tensor.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn

from yuan_checkpoint.training_state import PARTS


def gather_parts(engine: Any, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Returns a parameter's fp32 tensors by part, in its own shape. A collective over data-parallel ranks.

    DeepSpeed's own `safe_get_full_optimizer_state` cannot be used: it links the moments after the first group has
    stepped, when those of the second do not exist yet (0.19.8, fp32), and finds nothing for norms and biases.
    """
    group = engine.mpu.get_data_parallel_group()
    mapping = cast("Any", parameter)._hp_mapping
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


def scatter_parts(engine: Any, parameter: nn.Parameter, parts: Mapping[str, Tensor]) -> None:
    """Puts full fp32 tensors where this rank's optimizer keeps its piece of them, and the weights themselves."""
    mapping = cast("Any", parameter)._hp_mapping
    with torch.no_grad():
        parameter.data.copy_(parts["master"].to(parameter.device))
        if mapping is None:  # this rank's slice holds nothing of the parameter
            return
        source = mapping.lp_fragment_address
        for part in PARTS:
            _piece(engine, mapping, part).copy_(parts[part].flatten().narrow(0, source.start, source.numel))


def _piece(engine: Any, mapping: Any, part: str) -> Tensor:
    """Returns the view of this rank's flat slice that belongs to a parameter."""
    target = mapping.hp_fragment_address
    group = mapping.param_group_index
    flat = _slices(engine)[group].data if part == "master" else _slice_state(engine, group)[part]
    return flat.narrow(0, target.start, target.numel)


def set_step_count(engine: Any, step: int) -> None:
    """Tells Adam how many steps its moments contain (its bias correction)."""
    for group in range(len(_slices(engine))):
        _slice_state(engine, group)["step"].fill_(float(step))


def _slices(engine: Any) -> list[Tensor]:
    optimizer = engine.optimizer
    if hasattr(optimizer, "single_partition_of_fp32_groups"):  # ZeRO stage 1 in fp32
        return optimizer.single_partition_of_fp32_groups
    return optimizer.fp32_groups_flat_partition  # its bf16 twin with fp32 accumulation


def _slice_state(engine: Any, group: int) -> dict[str, Tensor]:
    flat = _slices(engine)[group]
    state = engine.optimizer.optimizer.state[flat]
    if "step" not in state:
        # What torch's AdamW makes at its first step (fused: the counter is an fp32 tensor on the device).
        state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
        state["exp_avg"] = torch.zeros_like(flat.data)
        state["exp_avg_sq"] = torch.zeros_like(flat.data)
    return state
