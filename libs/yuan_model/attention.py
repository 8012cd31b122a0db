"""Self-attention of a Yuan block: values from the input itself, queries and keys from the filtered input.

Shape suffixes: b batch, s new tokens, k all tokens (past and new), h hidden, n heads, d head dimension.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model.cache import LayerCache
from yuan_model.config import YuanConfig
from yuan_model.localized_filter import LocalizedFilter
from yuan_model.rotary import Rotary, apply_rotary


def document_segments(input_ids: Tensor, eod_token_id: int) -> Tensor:
    """Numbers the documents of packed sequences.

    Args:
        input_ids: int64 [b, s].
        eod_token_id: the token that ends a document and still belongs to it.

    Returns:
        int64 [b, s]: how many `<eod>` stand strictly before each position.
    """
    ends = (input_ids == eod_token_id).long()
    return ends.cumsum(dim=1) - ends


def visible(segments_bk: Tensor | None, new: int, total: int, device: torch.device) -> Tensor | None:
    """Returns which keys each new token sees, bool [b or 1, 1, s, k], or None where one token sees all.

    Args:
        segments_bk: document numbers of all tokens: only the same document is seen; None: all documents.
        new: the number of new tokens, which are the last.
        total: the number of all tokens.
        device: where the mask is needed.
    """
    if new == 1 and segments_bk is None:
        return None
    positions = torch.arange(total, device=device)
    causal_sk = positions[total - new :, None] >= positions[None, :]
    if segments_bk is None:
        return causal_sk[None, None]
    same_bsk = segments_bk[:, total - new :, None] == segments_bk[:, None, :]
    return (causal_sk & same_bsk).unsqueeze(1)


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
        self, input_bsh: Tensor, rotary: Rotary, segments_bk: Tensor | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        """Returns the attention's output [b, s, h] for the normalised input [b, s, h]."""
        batch, new, _ = input_bsh.shape
        filtered_bsh = input_bsh if self.lf_gate is None else self.lf_gate(input_bsh, cache)
        values_bnsd = self.v_proj(input_bsh).view(batch, new, -1, self.head_dim).transpose(1, 2)
        heads_bnse = self.qk_proj(filtered_bsh).view(batch, new, -1, 2 * self.head_dim).transpose(1, 2)
        queries_bnsd, keys_bnsd = heads_bnse.chunk(2, dim=-1)
        queries_bnsd, keys_bnsd = apply_rotary(queries_bnsd, rotary), apply_rotary(keys_bnsd, rotary)
        if cache is not None:
            keys_bnsd, values_bnsd = cache.append(keys_bnsd, values_bnsd)
        total = keys_bnsd.shape[2]
        plain = segments_bk is None and total == new  # the fused kernels' own causal mask starts at key 0
        output_bnsd = functional.scaled_dot_product_attention(
            queries_bnsd,
            keys_bnsd,
            values_bnsd,
            attn_mask=None if plain else visible(segments_bk, new, total, input_bsh.device),
            is_causal=plain,
        )
        return self.o_proj(output_bnsd.transpose(1, 2).reshape(batch, new, -1))
