"""Tensor parallelism: a block's matrices divided over ranks, from outside; the network's files know nothing of it.

Every rank of a tensor group computes its heads, its columns of the feed-forward and its rows of the vocabulary
(arXiv 1909.08053). The localized filter's convolutions see all channels, so every rank computes them whole
(YUAN_FACTS A2); their gradient is whole on every rank, because what flows back into the filter is summed first.

With sequence parallelism (arXiv 2205.05198) the residual stream and the norms on it hold 1/t of the sequence a rank: it
is gathered in front of the matrices and scattered behind them. A norm's weight then sees a part of the tokens, and its
gradient is summed over the group.

Shape suffixes: b batch, s sequence, p sequence / tensor size, h hidden, v vocabulary.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn import functional

from yuan_model import Block, RMSNorm

_collectives = cast("Any", torch.distributed)
"""Of partly unknown types."""

_SHARD_DIMENSION = {
    "qk_proj.weight": 0,  # per head its query rows, then its key rows: whole heads lie together
    "v_proj.weight": 0,
    "o_proj.weight": 1,
    "up_proj.weight": 0,
    "gate_proj.weight": 0,
    "down_proj.weight": 1,
    "embed_tokens.weight": 0,
    # Low-rank additions B A to a matrix: the factor on its divided side is divided as it is.
    "qk_proj.lora_b": 0,
    "v_proj.lora_b": 0,
    "o_proj.lora_a": 1,
    "up_proj.lora_b": 0,
    "gate_proj.lora_b": 0,
    "down_proj.lora_a": 1,
}


@dataclass(frozen=True)
class TensorGroup:
    """The ranks that share every matrix.

    Attributes:
        size: how many they are.
        rank: this one among them.
        group: through which they talk; None where there is only one.
        sequence: whether they share the sequence, too.
    """

    size: int = 1
    rank: int = 0
    group: Any = None
    sequence: bool = False

    @property
    def divides_sequence(self) -> bool:
        """Whether the residual stream of a rank is a part of the sequence."""
        return self.sequence and self.size > 1


ALONE = TensorGroup()
"""No tensor parallelism."""


def shard_dimension(name: str) -> int | None:
    """Returns along which dimension a parameter is divided, by its native name; None: every rank has it whole."""
    return next((dimension for ending, dimension in _SHARD_DIMENSION.items() if name.endswith(ending)), None)


def shard(name: str, tensor: Tensor, group: TensorGroup) -> Tensor:
    """Returns this rank's part of a parameter (a view), or the whole where it is not divided.

    Raises:
        ValueError: if the group's size does not divide it.
    """
    dimension = shard_dimension(name)
    if dimension is None or group.size == 1:
        return tensor
    if tensor.shape[dimension] % group.size:
        raise ValueError(f"{name}: {tensor.shape[dimension]} cannot be divided by {group.size} tensor-parallel ranks")
    return tensor.chunk(group.size, dimension)[group.rank]


def unshard(name: str, part: Tensor, group: TensorGroup) -> Tensor:
    """Returns the whole parameter from the parts of all ranks; a collective of the group."""
    dimension = shard_dimension(name)
    if dimension is None or group.size == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(group.size)]
    _collectives.all_gather(parts, part.contiguous(), group=group.group)
    return torch.cat(parts, dimension)


# --- collectives with a backward pass ------------------------------------------------------------------------------


def _sum(tensor: Tensor, group: TensorGroup) -> Tensor:
    summed = tensor.clone(memory_format=torch.contiguous_format)
    _collectives.all_reduce(summed, group=group.group)
    return summed


def _sum_and_scatter(tensor_bsh: Tensor, group: TensorGroup) -> Tensor:
    # gloo has no reduce-scatter; NCCL's would move half as much.
    if _collectives.get_backend(group.group) == "gloo":
        return _own_part(_sum(tensor_bsh, group), group).contiguous()
    sequence_first = tensor_bsh.transpose(0, 1).contiguous()
    part = sequence_first.new_empty(sequence_first.shape[0] // group.size, *sequence_first.shape[1:])
    _collectives.reduce_scatter_tensor(part, sequence_first, group=group.group)
    return part.transpose(0, 1)


def _gather(tensor_bph: Tensor, group: TensorGroup) -> Tensor:
    parts = [torch.empty_like(tensor_bph, memory_format=torch.contiguous_format) for _ in range(group.size)]
    _collectives.all_gather(parts, tensor_bph.contiguous(), group=group.group)
    return torch.cat(parts, dim=1)


def _own_part(tensor_bsh: Tensor, group: TensorGroup) -> Tensor:
    return tensor_bsh.chunk(group.size, dim=1)[group.rank]


class _SumGradient(torch.autograd.Function):
    """Forward: the same. Backward: the sum over the group, where each rank's gradient is a part."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return _sum(gradients[0], ctx.group), None


class _Sum(torch.autograd.Function):
    """Forward: the sum over the group. Backward: the same."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: TensorGroup) -> Tensor:
        return _sum(tensor, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return gradients[0], None


class _SumAndScatter(torch.autograd.Function):
    """Forward: this rank's part of the sequence of the sum. Backward: the whole sequence."""

    @staticmethod
    def forward(ctx: Any, tensor_bsh: Tensor, group: TensorGroup) -> Tensor:
        ctx.group = group
        return _sum_and_scatter(tensor_bsh, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        return _gather(gradients[0], ctx.group), None


class _Gather(torch.autograd.Function):
    """Forward: the whole sequence. Backward: this rank's part of the gradient, or of its sum over the group."""

    @staticmethod
    def forward(ctx: Any, tensor_bph: Tensor, group: TensorGroup, gradient_is_whole: bool) -> Tensor:
        ctx.group, ctx.gradient_is_whole = group, gradient_is_whole
        return _gather(tensor_bph, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        if ctx.gradient_is_whole:
            return _own_part(gradients[0], ctx.group).contiguous(), None, None
        return _sum_and_scatter(gradients[0], ctx.group), None, None


def sum_gradient(tensor: Tensor, group: TensorGroup) -> Tensor:
    """Returns the tensor; its gradient is summed over the group."""
    return cast("Tensor", cast("Any", _SumGradient).apply(tensor, group))


def leave_matrices(partial_bsh: Tensor, group: TensorGroup) -> Tensor:
    """Returns the residual stream from each rank's share of a sum [b, s, h]: [b, s, h], or [b, p, h] (own part)."""
    function = _SumAndScatter if group.divides_sequence else _Sum
    return cast("Tensor", cast("Any", function).apply(partial_bsh, group))


def own_part_of_sequence(tensor_bs: Tensor, group: TensorGroup) -> Tensor:
    """Returns this rank's part [b, p, ...] of what all have whole; the whole without sequence parallelism."""
    return _own_part(tensor_bs, group) if group.divides_sequence else tensor_bs


# --- layers --------------------------------------------------------------------------------------------------------


class ColumnParallel(nn.Module):
    """A linear layer of which each rank computes some outputs, from an input that all have whole."""

    def __init__(self, weight: nn.Parameter, group: TensorGroup) -> None:
        super().__init__()
        self.weight = weight
        self.group = group

    def forward(self, input_bsh: Tensor) -> Tensor:
        """Returns this rank's outputs [b, s, o] of the whole input [b, s, h]."""
        return functional.linear(sum_gradient(input_bsh, self.group), self.weight)


class RowParallel(nn.Module):
    """A linear layer of which each rank has some inputs; the outputs are summed."""

    def __init__(self, weight: nn.Parameter, group: TensorGroup) -> None:
        super().__init__()
        self.weight = weight
        self.group = group

    def forward(self, input_bsi: Tensor) -> Tensor:
        """Returns the whole outputs [b, s, h] (or this rank's part of the sequence) of its inputs [b, s, i]."""
        return leave_matrices(functional.linear(input_bsi, self.weight), self.group)


class _PartialNorm(nn.Module):
    """A norm over a part of the sequence, then what the matrices behind it take.

    Attributes:
        gradient_is_whole: whether what comes back is the whole gradient already (else each rank's part of a sum).
    """

    def __init__(self, norm: RMSNorm, group: TensorGroup, *, gradient_is_whole: bool) -> None:
        super().__init__()
        self.weight = norm.weight
        self.eps = norm.eps
        self.group = group
        self.gradient_is_whole = gradient_is_whole

    def forward(self, hidden: Tensor) -> Tensor:
        weight = sum_gradient(self.weight, self.group) if self.group.divides_sequence else self.weight
        normed = functional.rms_norm(hidden.float(), weight.shape, weight.float(), self.eps).to(hidden.dtype)
        if self.group.divides_sequence:
            return cast("Tensor", cast("Any", _Gather).apply(normed, self.group, self.gradient_is_whole))
        return normed if self.gradient_is_whole else sum_gradient(normed, self.group)


class VocabularyParallelEmbedding(nn.Module):
    """An embedding of which each rank has some rows, the same that it scores in the output projection."""

    def __init__(self, weight_vh: Tensor, group: TensorGroup) -> None:
        super().__init__()
        self.group = group
        self.weight = shard_parameter("embed_tokens.weight", weight_vh, group)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns the residual stream [b, s, h] (or this rank's part of the sequence) of token ids int64 [b, s]."""
        rows = self.weight.shape[0]
        own = input_ids - self.group.rank * rows
        elsewhere = (own < 0) | (own >= rows)
        found_bsh = functional.embedding(own.masked_fill(elsewhere, 0), self.weight)
        return leave_matrices(found_bsh.masked_fill(elsewhere.unsqueeze(-1), 0.0), self.group)


class VocabularyShard:
    """What the loss must know where each rank has a part of the vocabulary.

    Attributes:
        offset: the token that this rank's first row stands for.
    """

    def __init__(self, rows: int, group: TensorGroup) -> None:
        self.offset = group.rank * rows
        self._group = group.group

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over the group, in place; nothing flows back through it."""
        _collectives.all_reduce(values, group=self._group)
        return values

    def max(self, values: Tensor) -> Tensor:
        """Returns the largest over the group, in place; nothing flows back through it."""
        _collectives.all_reduce(values, op=_collectives.ReduceOp.MAX, group=self._group)
        return values


def shard_block_(block: Block, group: TensorGroup) -> None:
    """Divides a whole, initialised block over a group, in place; its parameters keep their names.

    Raises:
        ValueError: if the group's size does not divide its heads or its feed-forward width.
    """
    if group.size == 1:
        return
    attention, feed_forward = block.self_attn, block.mlp
    heads = attention.v_proj.weight.shape[0] // attention.head_dim
    if heads % group.size:
        raise ValueError(f"{heads} heads cannot be divided by {group.size} tensor-parallel ranks")
    for module, name, kind in (
        (attention, "v_proj", ColumnParallel),
        (attention, "qk_proj", ColumnParallel),
        (attention, "o_proj", RowParallel),
        (feed_forward, "down_proj", RowParallel),
    ):
        linear = getattr(module, name)
        setattr(module, name, kind(shard_parameter(f"{name}.weight", linear.weight, group), group))
    for name in ("up_proj", "gate_proj"):
        # One sum of gradients for both, in the norm before them.
        linear = getattr(feed_forward, name)
        linear.weight = shard_parameter(f"{name}.weight", linear.weight, group)
        linear.out_features = linear.weight.shape[0]
    # Attention's projections sum the gradients of their inputs themselves: the filter stands before one of them only,
    # and what it gives back is whole.
    replace = cast("Any", block)
    replace.input_layernorm = _PartialNorm(block.input_layernorm, group, gradient_is_whole=True)
    replace.post_attention_layernorm = _PartialNorm(block.post_attention_layernorm, group, gradient_is_whole=False)


def final_norm(norm: RMSNorm, group: TensorGroup) -> nn.Module:
    """Returns the norm before the output projection with what a divided projection needs behind it."""
    return norm if group.size == 1 else _PartialNorm(norm, group, gradient_is_whole=False)


def shard_parameter(name: str, whole: Tensor, group: TensorGroup) -> nn.Parameter:
    """Returns this rank's part of a whole tensor as a parameter of its own, by its native name; frozen as that is."""
    part = shard(name, whole.detach(), group).clone(memory_format=torch.contiguous_format)
    parameter = nn.Parameter(part, requires_grad=whole.requires_grad or not isinstance(whole, nn.Parameter))
    if group.size > 1 and shard_dimension(name) is not None:
        # DeepSpeed counts what is not marked so in the gradient norm of one tensor rank alone.
        cast("Any", parameter).model_parallel = True
    return parameter
