"""RMSNorm, computed in fp32 whatever the dtype around it."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model.native import training


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last dimension and scales by a weight.

    Shapes: [..., size] -> [..., size] in the input's dtype.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the normalised input."""
        if hidden.device.type != "cpu":  # one kernel there; on the processor torch has none
            normed = functional.rms_norm(hidden.float(), self.weight.shape, self.weight.float(), self.eps)
            return normed.to(hidden.dtype)
        return _ProcessorNorm.apply(hidden, self.weight, self.eps)  # type: ignore[no-any-return]


class _ProcessorNorm(torch.autograd.Function):
    """The norm in one pass over memory where it is trained, else in as few as torch's operations allow.

    Keeps its input and one number a row.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        ctx.compiled = any(ctx.needs_input_grad) and training.usable(hidden)
        if ctx.compiled:
            output, inverse = training.norm(hidden, weight, eps)
            ctx.save_for_backward(hidden, weight, inverse)
            return output
        exact = hidden.float()
        length = cast("Tensor", torch.linalg.vector_norm(exact, dim=-1, keepdim=True))  # pyright: ignore[reportUnknownMemberType]
        inverse = length.square_().div_(exact.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(hidden, weight, inverse)
        return (exact * inverse).mul_(weight).to(hidden.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        hidden, weight, inverse = ctx.saved_tensors
        if ctx.compiled:
            result, weight_gradient = training.norm_backward(hidden, weight, inverse, upstream)
            return result, weight_gradient.to(weight.dtype) if ctx.needs_input_grad[1] else None, None
        gradient, scale = upstream.float(), weight.float()
        normed = hidden.float() * inverse
        product = gradient * normed
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = product.flatten(0, -2).sum(dim=0).to(weight.dtype)
        along = (product @ scale).div_(hidden.shape[-1]).unsqueeze(-1)
        result = (gradient * scale).addcmul_(normed, along, value=-1.0).mul_(inverse)
        return result.to(hidden.dtype), weight_gradient, None
