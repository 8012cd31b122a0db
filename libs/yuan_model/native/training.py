"""What a training step on a processor does between its matrix products, by the compiled library.

`usable` says whether a tensor can go there; where it cannot (another device, no g++, odd sizes, a compiler at work that
makes its own), callers take torch's operations. Each function is one pass over memory; sums are fp32.

Shape suffixes: b batch, s sequence, n heads, d head dimension, r batch x heads, q queries, k keys, t tokens,
v vocabulary.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from yuan_model.native.building import NativeUnavailable, training_library

LANES = 16
"""Numbers that are computed at once; what a row has must be a multiple."""


def usable(tensor: Tensor, width: int | None = None) -> bool:
    """Returns whether the library can compute on a tensor of rows of `width` (default: its last dimension)."""
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in (torch.bfloat16, torch.float32)
        and (tensor.shape[-1] if width is None else width) % LANES == 0
        and not torch.compiler.is_compiling()
        and why_not() is None
    )


@functools.cache
def why_not() -> str | None:
    """Returns why there is no library, in one line, or None where there is one."""
    try:
        training_library()
    except NativeUnavailable as error:
        return str(error)
    return None


def norm(hidden: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns RMSNorm's output in the input's shape, and the inverse root mean square of each row, fp32 [rows]."""
    hidden, weight = hidden.contiguous(), weight.to(hidden.dtype).contiguous()
    output, size = torch.empty_like(hidden), hidden.shape[-1]
    inverse = torch.empty(hidden.numel() // size, dtype=torch.float32)
    _call("norm_forward", hidden, weight, output, inverse, inverse.numel(), size, eps)
    return output, inverse


def norm_backward(hidden: Tensor, weight: Tensor, inverse: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of RMSNorm's input and, fp32, of its weight."""
    hidden, weight = hidden.contiguous(), weight.to(hidden.dtype).contiguous()
    upstream = upstream.to(hidden.dtype).contiguous()
    gradient, size = torch.empty_like(hidden), hidden.shape[-1]
    weight_gradient = torch.empty(torch.get_num_threads(), size, dtype=torch.float32)
    _call("norm_backward", hidden, weight, inverse, upstream, gradient, weight_gradient, inverse.numel(), size)
    return gradient, weight_gradient[0]


def gated(up: Tensor, gate: Tensor) -> Tensor:
    """Returns silu(up) * gate."""
    up, gate = up.contiguous(), gate.contiguous()
    output = torch.empty_like(up)
    _call("gated_forward", up, gate, output, up.numel())
    return output


def gated_backward(up: Tensor, gate: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of `gated`'s arguments."""
    up, gate, upstream = up.contiguous(), gate.contiguous(), upstream.contiguous()
    up_gradient, gate_gradient = torch.empty_like(up), torch.empty_like(gate)
    _call("gated_backward", up, gate, upstream, up_gradient, gate_gradient, up.numel())
    return up_gradient, gate_gradient


def rotate(
    pairs_bsn2d: Tensor, heads_bnsd: Tensor | tuple[Tensor, Tensor], cosine: Tensor, sine: Tensor, *, back: bool
) -> None:
    """Turns pairs of a query and a key into heads, or back by the opposite angle: whichever is wanted is written.

    Args:
        pairs_bsn2d: contiguous.
        heads_bnsd: queries, then keys; contiguous each.
        cosine: fp32 [s, d/2] or [b, s, d/2].
        sine: the same.
        back: from heads to pairs.
    """
    batch, length, heads, _, dim = pairs_bsn2d.shape
    table = 0 if cosine.dim() == 2 else length * dim // 2
    queries, keys = heads_bnsd
    sizes = (batch, length, heads, dim, table)
    _call("rotate", pairs_bsn2d, queries, keys, cosine.contiguous(), sine.contiguous(), *sizes, before=int(back))


def causal_softmax_(scores_rqk: Tensor, before: int, scale: float) -> None:
    """Makes scores, contiguous, into weights, in place: query i sees the first `before` + i + 1 keys."""
    _call("causal_softmax", scores_rqk, *scores_rqk.shape, before, scale)


def softmax_backward_(weights_rqk: Tensor, products_rqk: Tensor, scale: float) -> None:
    """Makes the weights' gradient into that of the scores before their scale, in place; both contiguous."""
    columns = weights_rqk.shape[-1]
    _call("softmax_backward", weights_rqk, products_rqk, weights_rqk.numel() // columns, columns, scale)


def accumulate_(sums_rkd: Tensor, added_rkd: Tensor) -> None:
    """Adds to the first keys of fp32 sums; both contiguous, `added` may have fewer keys."""
    matrices = added_rkd.shape[0]
    _call("accumulate", sums_rkd, added_rkd, matrices, added_rkd[0].numel(), sums_rkd[0].numel(), of=added_rkd)


def cross_entropy_(logits_tv: Tensor, labels_t: Tensor, weights_t: Tensor | None, *, gradients: bool) -> Tensor:
    """Returns each token's loss times its weight, fp32 [t]; `logits`, contiguous, become their gradients if wanted."""
    tokens, vocabulary = logits_tv.shape
    if tokens and not 0 <= int(labels_t.min()) <= int(labels_t.max()) < vocabulary:
        raise IndexError(f"a label is not in 0..{vocabulary - 1}")
    losses = torch.empty(tokens, dtype=torch.float32)
    weights = None if weights_t is None else weights_t.contiguous()
    _call("cross_entropy", logits_tv, labels_t.contiguous(), weights, losses, tokens, vocabulary, int(gradients))
    return losses


def _call(name: str, *arguments: Any, of: Tensor | None = None, before: int | None = None) -> None:
    """Calls a function of the library on tensors, all of which the caller still holds, and numbers."""
    half = (arguments[0] if of is None else of).dtype == torch.bfloat16
    given = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    first = [half] if before is None else [half, before]
    getattr(training_library(), f"yuan_{name}")(*first, *given, torch.get_num_threads())
