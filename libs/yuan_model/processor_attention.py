"""Causal attention for training on a processor: a block of queries at a time, each against the keys that it can see.

torch's fused kernel for processors does its products in small tiles of its own, at a fraction of the rate of a matrix
product; in bf16 this is 2.4 times as fast forward and backward, in fp32 a fifth faster (benchmarks/training.py). Scores
of one block exist at a time; they are computed again in the backward pass, as every flash attention does. Scores have
the inputs' format (in bf16 as where attention is written out), softmax and sums over blocks are fp32.

Shape suffixes: b batch, s tokens, n heads, d head dimension, r batch x heads, q queries of a block, k keys that they
see.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor

from yuan_model.native import training

SHORT, LONG = 128, 256
"""Queries of a block: in a long sequence more of them, where what a block computes beyond the diagonal is little."""


def attend_in_blocks(queries_bnsd: Tensor, keys_bnsd: Tensor, values_bnsd: Tensor) -> Tensor:
    """Returns causal attention's output [b, n, s, d] over a whole sequence; softmax in fp32. Differentiable once."""
    return cast("Tensor", cast("Any", _Attention).apply(queries_bnsd, keys_bnsd, values_bnsd))


class _Attention(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:  # type: ignore[override]
        queries_rsd, keys_rsd, values_rsd = (tensor.flatten(0, 1) for tensor in (queries, keys, values))
        ctx.save_for_backward(queries_rsd, keys_rsd, values_rsd)
        batch, heads, length, size = queries.shape
        # As the output projection reads it: heads side by side.
        output = queries.new_empty(batch, length, heads, size).transpose(1, 2)
        ctx.compiled = training.usable(keys, math.gcd(length, SHORT, LONG))
        for first, last in _blocks(length):
            seen = _weights(queries_rsd, keys_rsd, first, last, compiled=ctx.compiled) @ values_rsd[:, :last]
            output[:, :, first:last] = seen.view(batch, heads, last - first, size)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        queries_rsd, keys_rsd, values_rsd = ctx.saved_tensors
        upstream_rsd = upstream.flatten(0, 1)
        query_gradient = torch.empty_like(queries_rsd)
        scale = 1.0 / math.sqrt(queries_rsd.shape[-1])
        # Sums over blocks of queries: in fp32, whatever the dtype.
        key_gradient, value_gradient = (torch.zeros_like(keys_rsd, dtype=torch.float32) for _ in range(2))
        for first, last in _blocks(queries_rsd.shape[1]):
            weights_rqk = _weights(queries_rsd, keys_rsd, first, last, compiled=ctx.compiled)
            upstream_rqd = upstream_rsd[:, first:last]
            products_rqk = upstream_rqd @ values_rsd[:, :last].transpose(1, 2)
            if ctx.compiled:
                training.softmax_backward_(weights_rqk, products_rqk, scale)
                training.accumulate_(value_gradient, weights_rqk.transpose(1, 2) @ upstream_rqd)
                query_gradient[:, first:last] = products_rqk @ keys_rsd[:, :last]
                training.accumulate_(key_gradient, products_rqk.transpose(1, 2) @ queries_rsd[:, first:last])
                continue
            value_gradient[:, :last] += weights_rqk.transpose(1, 2) @ upstream_rqd
            scores_rqk = cast(
                "Tensor", cast("Any", torch)._softmax_backward_data(products_rqk, weights_rqk, -1, weights_rqk.dtype)
            )
            query_gradient[:, first:last] = scores_rqk @ keys_rsd[:, :last]
            key_gradient[:, :last] += scores_rqk.transpose(1, 2) @ queries_rsd[:, first:last]
        if not ctx.compiled:
            query_gradient *= scale
            key_gradient *= scale
        shape = upstream.shape
        return (
            query_gradient.view(shape),
            key_gradient.to(keys_rsd.dtype).view(shape),
            value_gradient.to(values_rsd.dtype).view(shape),
        )


def _blocks(length: int) -> list[tuple[int, int]]:
    """Returns the first query of each block and the one behind its last."""
    size = LONG if length >= 8 * LONG else SHORT
    return [(first, min(first + size, length)) for first in range(0, length, size)]


def _weights(queries_rsd: Tensor, keys_rsd: Tensor, first: int, last: int, *, compiled: bool) -> Tensor:
    """Returns the attention weights of a block of queries over the keys before its end, [r, q, k]."""
    scale = 1.0 / math.sqrt(queries_rsd.shape[-1])
    if compiled:
        weights_rqk = queries_rsd[:, first:last] @ keys_rsd[:, :last].transpose(1, 2)
        training.causal_softmax_(weights_rqk, first, scale)
        return weights_rqk
    scaled_rqd = queries_rsd[:, first:last] * scale
    scores_rqk = scaled_rqd @ keys_rsd[:, :last].transpose(1, 2)
    # Only the square at the diagonal holds keys behind a query.
    behind = torch.full((last - first, last - first), -math.inf, dtype=scores_rqk.dtype, device=scores_rqk.device)
    scores_rqk[:, :, first:] += behind.triu_(1)
    return torch.softmax(scores_rqk, dim=-1)  # of bf16, too, it is computed in fp32
