"""Self-attention of a Yuan block: values from the input itself, queries and keys from the filtered input.

Shape suffixes: b batch, s new tokens, k all tokens (past and new), h hidden, n heads, d head dimension.
"""

from torch import Tensor, nn

from yuan_model.cache import LayerPast
from yuan_model.causal import attend
from yuan_model.config import YuanConfig
from yuan_model.localized_filter import LocalizedFilter
from yuan_model.rotary import Rotary, apply_rotary


class Attention(nn.Module):
    """Causal multi-head attention with a fused query and key projection.

    `qk_proj` yields, per head, its query then its key (head 0's q, head 0's k, head 1's q ...).
    """

    def __init__(self, config: YuanConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.head_dim = config.head_dim
        self.v_proj = nn.Linear(hidden, hidden, bias=False)
        self.qk_proj = nn.Linear(hidden, 2 * hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.lf_gate = LocalizedFilter(config) if config.localized_filtering else None

    def forward(
        self, input_bsh: Tensor, rotary: Rotary, segments_bk: Tensor | None = None, cache: LayerPast | None = None
    ) -> Tensor:
        """Returns the attention's output [b, s, h] for the normalised input [b, s, h]."""
        batch, new, _ = input_bsh.shape
        filtered_bsh = input_bsh if self.lf_gate is None else self.lf_gate(input_bsh, cache)
        values_bnsd = self.v_proj(input_bsh).view(batch, new, -1, self.head_dim).transpose(1, 2)
        heads_bnse = self.qk_proj(filtered_bsh).view(batch, new, -1, 2 * self.head_dim).transpose(1, 2)
        queries_bnsd, keys_bnsd = heads_bnse.chunk(2, dim=-1)
        queries_bnsd, keys_bnsd = apply_rotary(queries_bnsd, rotary), apply_rotary(keys_bnsd, rotary)
        if cache is None:
            output_bnsd = attend(queries_bnsd, keys_bnsd, values_bnsd, segments_bk)
        else:
            output_bnsd = cache.attend(queries_bnsd, keys_bnsd, values_bnsd, segments_bk)
        return self.o_proj(output_bnsd.transpose(1, 2).reshape(batch, new, -1))
