"""One transformer block, pre-norm: x += attention(norm(x)); x += mlp(norm(x)). Usable alone, as a pipeline layer.

Shape suffixes: b batch, s new tokens, k all tokens (past and new), h hidden, f feed-forward.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model.attention import Attention
from yuan_model.cache import LayerPast
from yuan_model.config import YuanConfig
from yuan_model.native import training
from yuan_model.norm import RMSNorm
from yuan_model.recompute import Recompute, recomputed
from yuan_model.rotary import Rotary


class FeedForward(nn.Module):
    """SwiGLU: down(silu(up(x)) * gate(x)). The activation is on `up_proj`, opposite to Llama's files."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, input_bsh: Tensor) -> Tensor:
        """Returns [b, s, h] from the normalised input [b, s, h]."""
        gated_bsf = cast("Any", _Gated).apply(self.up_proj(input_bsh), self.gate_proj(input_bsh))
        return self.down_proj(gated_bsf)


class _Gated(torch.autograd.Function):
    """silu(up) * gate, of which silu(up) is not kept: it costs less to compute it again than to hold it."""

    @staticmethod
    def forward(ctx: Any, up: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(up, gate)
        ctx.compiled = any(ctx.needs_input_grad) and training.usable(up)
        if ctx.compiled:
            return training.gated(up, gate)
        return functional.silu(up).mul_(gate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        up, gate = ctx.saved_tensors
        if ctx.compiled:
            return training.gated_backward(up, gate, upstream)
        up_gradient = torch.ops.aten.silu_backward(upstream * gate, up)
        return up_gradient, functional.silu(up).mul_(upstream)


class Block(nn.Module):
    """Attention and feed-forward on the residual stream.

    Attributes:
        recompute: what the backward pass computes again instead of keeping.
        draws_inside: whether a module put into the block draws random numbers while training.
        hidden_dropout: share of what attention and feed-forward add to the residual stream that is dropped while
            training.
    """

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)
        self.recompute: Recompute = "none"
        self.draws_inside = False
        self.hidden_dropout = 0.0

    def forward(
        self, hidden_bsh: Tensor, rotary: Rotary, segments_bk: Tensor | None = None, cache: LayerPast | None = None
    ) -> Tensor:
        """Returns the residual stream after the block.

        Args:
            hidden_bsh: the residual stream before it.
            rotary: (cosine, sine) of the new tokens' positions, from `RotaryTable`.
            segments_bk: `document_segments` of all tokens; then only the same document is attended to. None: all.
            cache: this layer's past; the new tokens are added to it.
        """
        if self.recompute == "full" and cache is None:
            draws = self.training and (self.draws_inside or self.hidden_dropout > 0 or self.self_attn.dropout > 0)
            return recomputed(self._forward, hidden_bsh, rotary, segments_bk, draws=draws)
        return self._forward(hidden_bsh, rotary, segments_bk, cache)

    def _forward(
        self, hidden_bsh: Tensor, rotary: Rotary, segments_bk: Tensor | None, cache: LayerPast | None = None
    ) -> Tensor:
        normed_bsh = self.input_layernorm(hidden_bsh)
        selective = self.recompute == "selective"
        mixed_bsh = self.self_attn(normed_bsh, rotary, segments_bk, cache, recompute=selective)
        hidden_bsh = hidden_bsh + self._drop(mixed_bsh)
        return hidden_bsh + self._drop(self.mlp(self.post_attention_layernorm(hidden_bsh)))

    def _drop(self, added_bsh: Tensor) -> Tensor:
        if not self.training or self.hidden_dropout == 0:
            return added_bsh
        return functional.dropout(added_bsh, self.hidden_dropout)
