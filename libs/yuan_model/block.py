"""One transformer block, pre-norm: x += attention(norm(x)); x += mlp(norm(x)). Usable alone, as a pipeline layer.

Shape suffixes: b batch, s new tokens, k all tokens (past and new), h hidden.
"""

from torch import Tensor, nn
from torch.nn import functional

from yuan_model.attention import Attention
from yuan_model.cache import LayerPast
from yuan_model.config import YuanConfig
from yuan_model.norm import RMSNorm
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
        return self.down_proj(functional.silu(self.up_proj(input_bsh)) * self.gate_proj(input_bsh))


class Block(nn.Module):
    """Attention and feed-forward on the residual stream."""

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

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
        hidden_bsh = hidden_bsh + self.self_attn(self.input_layernorm(hidden_bsh), rotary, segments_bk, cache)
        return hidden_bsh + self.mlp(self.post_attention_layernorm(hidden_bsh))
