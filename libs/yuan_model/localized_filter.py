"""Localized filtering (LFA): two causal convolutions that let queries and keys see their close past.

    a_t = c1(u_{t-1}, u_t)      b_t = c2(a_{t-1}, a_t)      f_t = RMSNorm(b_t + u_t)

with u_{-1} = 0 and a_{-1} = 0 (zeros, not c1's bias), no activation between (arXiv 2311.15786, section 3.1; YUAN_FACTS
A2). The filter crosses `<eod>` whatever attention does. Shape suffixes: b batch, s sequence, h hidden, i and o a
convolution's input and output width.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model.cache import LayerPast
from yuan_model.config import YuanConfig
from yuan_model.norm import RMSNorm

FILTER_NORM_EPS = 1e-6
"""Fixed in the published code, whatever rms_norm_eps says."""


class CausalConvolution(nn.Module):
    """A convolution over the sequence with kernel 2, dense over channels, with bias.

    The weight keeps the published shape [out, in, 2, 1] of a two-dimensional kernel; index 0 is the older step.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 2, 1))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, newer_bsi: Tensor, older_bsi: Tensor) -> Tensor:
        """Returns [b, s, o] from the steps [b, s, i] and, for each of them, the step before it [b, s, i]."""
        # One matrix product over (older, newer) pairs, interleaved as the weight lies in memory, so that the weight is
        # never copied: on a processor twice as fast as conv1d or conv2d forward and backward, and a tenth faster in
        # decoding than any form that slices or permutes the weight.
        pairs_bsi = torch.stack((older_bsi, newer_bsi), dim=-1).flatten(-2)
        return functional.linear(pairs_bsi, self.weight.flatten(1), self.bias)

    def over_sequence(self, steps_bsi: Tensor) -> Tensor:
        """Returns [b, s, o] from the steps of whole sequences [b, s, i]; a zero step comes before the first."""
        return cast("Tensor", cast("Any", _OverSequence).apply(steps_bsi, self.weight, self.bias))


class _OverSequence(torch.autograd.Function):
    """A convolution over whole sequences: as one matrix product, which keeps its input alone for the backward pass.

    Of many steps it is cheaper to lay the weight out anew than to interleave the steps.
    """

    @staticmethod
    def forward(ctx: Any, steps_bsi: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(steps_bsi, weight)
        return functional.linear(_with_older(steps_bsi), _side_by_side(weight), bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, upstream_bso: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        steps_bsi, weight = ctx.saved_tensors
        inputs = steps_bsi.shape[2]
        steps_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            pairs_bsi = upstream_bso @ _side_by_side(weight)
            steps_gradient = pairs_bsi[..., inputs:].contiguous()
            steps_gradient[:, :-1] += pairs_bsi[:, 1:, :inputs]
        upstream_to = upstream_bso.flatten(0, 1)
        if ctx.needs_input_grad[1]:
            product = upstream_to.t() @ _with_older(steps_bsi).flatten(0, 1)
            weight_gradient = product.view(-1, 2, inputs).transpose(1, 2).contiguous().unsqueeze(-1)
        if ctx.needs_input_grad[2]:
            bias_gradient = upstream_to.sum(dim=0)
        return steps_gradient, weight_gradient, bias_gradient


def _with_older(steps_bsi: Tensor) -> Tensor:
    """Returns for each step the one before it and itself side by side, [b, s, 2i]."""
    batch, length, inputs = steps_bsi.shape
    pairs_bsi = steps_bsi.new_empty(batch, length, 2 * inputs)
    pairs_bsi[:, 0, :inputs] = 0.0
    pairs_bsi[:, 1:, :inputs] = steps_bsi[:, :-1]
    pairs_bsi[..., inputs:] = steps_bsi
    return pairs_bsi


def _side_by_side(weight: Tensor) -> Tensor:
    """Returns a kernel [o, i, 2, 1] as the matrix [o, 2i] that pairs of steps side by side are multiplied with."""
    return weight[..., 0].transpose(1, 2).flatten(1)


class LocalizedFilter(nn.Module):
    """The filter in front of the query and key projection; parameters as in `self_attn.lf_gate`."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        hidden, half = config.hidden_size, config.hidden_size // 2
        self.conv1 = CausalConvolution(hidden, half)
        self.conv2 = CausalConvolution(half, hidden)
        self.output_layernorm = RMSNorm(hidden, FILTER_NORM_EPS)

    def forward(self, input_bsh: Tensor, cache: LayerPast | None = None) -> Tensor:
        """Returns the filtered input [b, s, h]; with a cache the past steps come from it and the last go into it."""
        if cache is None:
            second_bsh = self.conv2.over_sequence(self.conv1.over_sequence(input_bsh))
        else:
            first_bso = self.conv1(input_bsh, cache.steps_before(0, input_bsh))
            second_bsh = self.conv2(first_bso, cache.steps_before(1, first_bso))
        return self.output_layernorm(second_bsh + input_bsh)
