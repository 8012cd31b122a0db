"""Attention by the flash-attn package (CUDA, fp16 and bf16); the same results as `causal.attend` within rounding.

Shape suffixes: b batch, s tokens, n heads, d head dimension, t tokens of all sequences in a row.
"""

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def flash_installed() -> bool:
    """Tells whether flash-attn can be imported."""
    return importlib.util.find_spec("flash_attn") is not None


def flash_attend(
    queries_bnsd: Tensor, keys_bnsd: Tensor, values_bnsd: Tensor, segments_bs: Tensor | None, dropout: float
) -> Tensor:
    """Returns causal attention's output [b, n, s, d] of whole sequences.

    Args:
        queries_bnsd: on a CUDA device, fp16 or bf16, as the others.
        keys_bnsd: of the same tokens.
        values_bnsd: of the same tokens.
        segments_bs: document numbers: only the same document is seen; None: all documents.
        dropout: share of attention weights that are dropped.

    Raises:
        ModuleNotFoundError: if flash-attn is not installed.
    """
    flash: Any = importlib.import_module("flash_attn")
    # What flash-attn takes is [b, s, n, d], which is how the projections lie in memory: no copy is made.
    parts = [part.transpose(1, 2) for part in (queries_bnsd, keys_bnsd, values_bnsd)]
    if segments_bs is None:
        return flash.flash_attn_func(*parts, dropout_p=dropout, causal=True).transpose(1, 2)
    batch, length = segments_bs.shape
    bounds, longest = document_bounds(segments_bs)
    output_tnd = flash.flash_attn_varlen_func(
        *(part.flatten(0, 1) for part in parts),
        cu_seqlens_q=bounds,
        cu_seqlens_k=bounds,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        dropout_p=dropout,
        causal=True,
    )
    return output_tnd.view(batch, length, *output_tnd.shape[1:]).transpose(1, 2)


def document_bounds(segments_bs: Tensor) -> tuple[Tensor, int]:
    """Returns where documents begin in the row of all tokens, and its end, int32; and the longest document's length."""
    batch, length = segments_bs.shape
    begins_bs = functional.pad(segments_bs[:, 1:] != segments_bs[:, :-1], (1, 0), value=True)
    begins = begins_bs.flatten().nonzero().squeeze(1).to(torch.int32)
    bounds = functional.pad(begins, (0, 1), value=batch * length)
    return bounds, int(bounds.diff().max())
