"""Which keys a token sees, and attention over them; used with and without a past.

Shape suffixes: b batch, s new tokens, k all tokens (past and new), n heads, d head dimension.
"""

import torch
from torch import Tensor
from torch.nn import functional

from yuan_model.processor_attention import attend_in_blocks


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


def attend(
    queries_bnsd: Tensor, keys_bnkd: Tensor, values_bnkd: Tensor, segments_bk: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Returns attention's output [b, n, s, d]; the new tokens are the last of all.

    Args:
        queries_bnsd: of the new tokens.
        keys_bnkd: of all tokens.
        values_bnkd: of all tokens.
        segments_bk: document numbers of all tokens: only the same document is seen; None: all documents.
        dropout: share of attention weights that are dropped.
    """
    new, total = queries_bnsd.shape[2], keys_bnkd.shape[2]
    plain = segments_bk is None and total == new  # the fused kernels' own causal mask starts at key 0
    if plain and dropout == 0 and _trains_on_processor(queries_bnsd):
        return attend_in_blocks(queries_bnsd, keys_bnkd, values_bnkd)
    return functional.scaled_dot_product_attention(
        queries_bnsd,
        keys_bnkd,
        values_bnkd,
        attn_mask=None if plain else visible(segments_bk, new, total, queries_bnsd.device),
        dropout_p=dropout,
        is_causal=plain,
    )


def _trains_on_processor(queries: Tensor) -> bool:
    # A compiler makes its own of torch's operation.
    return queries.device.type == "cpu" and queries.requires_grad and not torch.compiler.is_compiling()


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
