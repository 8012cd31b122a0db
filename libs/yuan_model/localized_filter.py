"""Localized filtering (LFA): two causal convolutions that let queries and keys see their close past.

    a_t = c1(u_{t-1}, u_t)      b_t = c2(a_{t-1}, a_t)      f_t = RMSNorm(b_t + u_t)

with u_{-1} = 0 and a_{-1} = 0 (zeros, not c1's bias), no activation between (arXiv 2311.15786, section 3.1; YUAN_FACTS
A2). The filter crosses `<eod>` whatever attention does. Shape suffixes: b batch, s sequence, h hidden, i and o a
convolution's input and output width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model.cache import LayerCache
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

    def forward(self, input_bsi: Tensor, before_b1i: Tensor) -> Tensor:
        """Returns [b, s, o] from the steps [b, s, i] and the one step [b, 1, i] before them."""
        # One matrix product over (older, newer) pairs, interleaved as the weight lies in memory, so that the weight is
        # never copied: on a processor twice as fast as conv1d or conv2d forward and backward, and a tenth faster in
        # decoding than any form that slices or permutes the weight.
        older_bsi = torch.cat((before_b1i, input_bsi[:, :-1]), dim=1)
        pairs_bsi = torch.stack((older_bsi, input_bsi), dim=-1).flatten(-2)
        return functional.linear(pairs_bsi, self.weight.flatten(1), self.bias)


class LocalizedFilter(nn.Module):
    """The filter in front of the query and key projection; parameters as in `self_attn.lf_gate`."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        hidden, half = config.hidden_size, config.hidden_size // 2
        self.conv1 = CausalConvolution(hidden, half)
        self.conv2 = CausalConvolution(half, hidden)
        self.output_layernorm = RMSNorm(hidden, FILTER_NORM_EPS)

    def forward(self, input_bsh: Tensor, cache: LayerCache | None = None) -> Tensor:
        """Returns the filtered input [b, s, h]; with a cache the past steps come from it and the last go into it."""
        batch, _, hidden = input_bsh.shape
        if cache is None or cache.filter_state is None:
            before_u = input_bsh.new_zeros(batch, 1, hidden)
            before_a = input_bsh.new_zeros(batch, 1, hidden // 2)
        else:
            before_u, before_a = cache.filter_state
        first_bso = self.conv1(input_bsh, before_u)
        second_bsh = self.conv2(first_bso, before_a)
        if cache is not None:
            cache.filter_state = (input_bsh[:, -1:], first_bso[:, -1:])
        return self.output_layernorm(second_bsh + input_bsh)
