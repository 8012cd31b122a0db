"""Localized filtering (LFA): two causal convolutions that let queries and keys see their close past.

    a_t = c1(u_{t-1}, u_t)      b_t = c2(a_{t-1}, a_t)      f_t = RMSNorm(b_t + u_t)

with u_{-1} = 0 and a_{-1} = 0 (zeros, not c1's bias), no activation between (arXiv 2311.15786, section 3.1; YUAN_FACTS
A2). The filter crosses `<eod>` whatever attention does. Shape suffixes: b batch, s sequence, h hidden, i and o a
convolution's input and output width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model.cache import LayerPast, steps_before
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
        shifted = steps_before if cache is None else cache.steps_before
        first_bso = self.conv1(input_bsh, shifted(0, input_bsh))
        second_bsh = self.conv2(first_bso, shifted(1, first_bso))
        return self.output_layernorm(second_bsh + input_bsh)
