"""Attention by the flash-attn package (CUDA, fp16 and bf16); the same results as torch's within rounding.

`flash_attend` is training's, over whole sequences; `FlashPages` is serving's, over a pool of blocks.

Shape suffixes: b batch, s tokens, n heads, d head dimension, t tokens of all sequences in a row.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from yuan_model.config import YuanConfig

FLASH_PAGE_TOKENS = 256
"""A page's tokens are a multiple of this (flash-attn 2, `flash_attn_with_kvcache`)."""


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


@dataclass(frozen=True)
class FlashCall:
    """Sequences that are attended together, since they have as many new tokens.

    Attributes:
        first: number of their first new token in the row of all.
        new: new tokens of each.
        pages_bp: their pages in order, int32.
        lengths_b: their tokens, the new ones included, int32.
    """

    first: int
    new: int
    pages_bp: Tensor
    lengths_b: Tensor


class FlashPages:
    """flash-attn's kernels over paged keys and values, which stay where they are."""

    def __init__(self) -> None:
        """Imports flash-attn.

        Raises:
            ModuleNotFoundError: if it is not installed.
        """
        self._flash: Any = importlib.import_module("flash_attn")

    @classmethod
    def of(cls, config: YuanConfig, dtype: torch.dtype, device: torch.device) -> "FlashPages | None":
        """Returns them where such a network can be served by them, else None: torch attends."""
        return cls() if cls.able(config, dtype, device) else None

    @staticmethod
    def able(config: YuanConfig, dtype: torch.dtype, device: torch.device) -> bool:
        """Tells whether such a network can be served by them.

        Not so where documents hide each other: the kernel has no first key for each query.
        """
        return (
            device.type == "cuda"
            and dtype in {torch.float16, torch.bfloat16}
            and config.head_dim <= 256
            and config.head_dim % 8 == 0
            and not config.attention_reset_at_eod
            and flash_installed()
        )

    @staticmethod
    def calls(pages_bp: Tensor, stops_b: Tensor, singles: int, lengths_b: Tensor) -> list[FlashCall]:
        """Lays out a step: who has one new token goes together, each longer part alone.

        Args:
            pages_bp: pages of each sequence in order, int32; those with one new token come first.
            stops_b: their tokens with the new ones, int32.
            singles: how many have one new token.
            lengths_b: new tokens of each.
        """
        calls = [FlashCall(0, 1, pages_bp[:singles], stops_b[:singles])] if singles else []
        first = singles
        for number in range(singles, len(pages_bp)):
            new = int(lengths_b[number])
            calls.append(FlashCall(first, new, pages_bp[number : number + 1], stops_b[number : number + 1]))
            first += new
        return calls

    def attend(self, calls: list[FlashCall], queries_1ntd: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Returns attention's output [1, n, t, d]; the new tokens' keys and values are in the pages already.

        Args:
            calls: of the step.
            queries_1ntd: of all new tokens.
            keys: of the pool, [pages, page tokens, n, d].
            values: likewise.
        """
        queries_tnd = queries_1ntd[0].transpose(0, 1)
        outputs: list[Tensor] = []
        for call in calls:
            batch = len(call.pages_bp)
            own_tnd = queries_tnd[call.first : call.first + batch * call.new]
            queries_bsnd = own_tnd.view(batch, call.new, *own_tnd.shape[1:])
            output_bsnd = self._flash.flash_attn_with_kvcache(
                queries_bsnd, keys, values, cache_seqlens=call.lengths_b, block_table=call.pages_bp, causal=True
            )
            outputs.append(output_bsnd.flatten(0, 1))
        return torch.cat(outputs).transpose(0, 1).unsqueeze(0)
