"""Self-attention of a Yuan block: values from the input itself, queries and keys from the filtered input.

Shape suffixes: b batch, s new tokens, k all tokens (past and new), h hidden, n heads, d head dimension.
"""

from typing import Literal

from torch import Tensor, nn

from yuan_model.cache import LayerPast
from yuan_model.causal import attend
from yuan_model.config import YuanConfig
from yuan_model.flash import flash_attend
from yuan_model.localized_filter import LocalizedFilter
from yuan_model.recompute import recomputed
from yuan_model.rotary import Rotary, rotate_pairs


class Attention(nn.Module):
    """Causal multi-head attention with a fused query and key projection.

    `qk_proj` yields, per head, its query then its key (head 0's q, head 0's k, head 1's q ...).

    Attributes:
        backend: who computes attention where there is no past: torch (`sdpa`) or flash-attn (`flash`).
        dropout: share of attention weights that are dropped while training.
    """

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.head_dim = config.head_dim
        self.backend: Literal["sdpa", "flash"] = "sdpa"
        self.dropout = 0.0
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.qk_proj = nn.Linear(hidden, 2 * hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.lf_gate = LocalizedFilter(config) if config.localized_filtering else None

    def forward(
        self,
        input_bsh: Tensor,
        rotary: Rotary,
        segments_bk: Tensor | None = None,
        cache: LayerPast | None = None,
        *,
        recompute: bool = False,
    ) -> Tensor:
        """Returns the attention's output [b, s, h] for the normalised input [b, s, h].

        Args:
            input_bsh: the normalised input of the new tokens.
            rotary: (cosine, sine) of their positions.
            segments_bk: document numbers of all tokens, or None where documents see each other.
            cache: this layer's past.
            recompute: what lies between the projections is computed again in the backward pass.
        """
        filtered_bsh = input_bsh if self.lf_gate is None else self.lf_gate(input_bsh, cache)
        values_bsh = self.v_proj(input_bsh)
        pairs_bse = self.qk_proj(filtered_bsh)
        if recompute and cache is None:
            draws = self.training and self.dropout > 0
            mixed_bsh = recomputed(self._mix, pairs_bse, values_bsh, rotary, segments_bk, draws=draws)
        else:
            mixed_bsh = self._mix(pairs_bse, values_bsh, rotary, segments_bk, cache)
        return self.o_proj(mixed_bsh)

    def _mix(
        self,
        pairs_bse: Tensor,
        values_bsh: Tensor,
        rotary: Rotary,
        segments_bk: Tensor | None,
        cache: LayerPast | None = None,
    ) -> Tensor:
        """Returns the heads' outputs side by side [b, s, h]: rotary and attention, nothing that has weights."""
        batch, new, _ = values_bsh.shape
        values_bnsd = values_bsh.view(batch, new, -1, self.head_dim).transpose(1, 2)
        queries_bnsd, keys_bnsd = rotate_pairs(pairs_bse, rotary, self.head_dim)
        dropout = self.dropout if self.training else 0.0
        if cache is not None:
            output_bnsd = cache.attend(queries_bnsd, keys_bnsd, values_bnsd, segments_bk)
        elif self.backend == "flash":
            output_bnsd = flash_attend(queries_bnsd, keys_bnsd, values_bnsd, segments_bk, dropout)
        else:
            output_bnsd = attend(queries_bnsd, keys_bnsd, values_bnsd, segments_bk, dropout)
        return output_bnsd.transpose(1, 2).reshape(batch, new, -1)
