"""Tokens from rows of logits, and how probable tokens are, by the compiled library: `sampling`'s functions, faster.

Shape suffixes: b rows, v vocabulary.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from yuan_model.native.building import native_library
from yuan_model.sampling import Draw

_DRAW = np.dtype([("uniform", "f8"), ("temperature", "f4"), ("top_k", "i4"), ("top_p", "f4"), ("min_p", "f4")])


def native_draw(logits_bv: Tensor, rows: Sequence[int], draws: Sequence[Draw] | None) -> list[int]:
    """As `torch_draw`; a row's logits must lie side by side.

    Raises:
        NativeUnavailable: if there is no library.
    """
    numbers, tokens = np.array(rows, np.int32), np.empty(len(rows), np.int32)
    how = None if draws is None else np.array(draws, _DRAW)
    native_library().yuan_draw(
        *(logits_bv.data_ptr(), logits_bv.stride(0), numbers.ctypes.data, len(rows), logits_bv.shape[1]),
        *(None if how is None else how.ctypes.data, torch.get_num_threads(), tokens.ctypes.data),
    )
    return tokens.tolist()


def native_places(logits_bv: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> tuple[list[float], list[int]]:
    """As `torch_places`; a row's logits must lie side by side.

    Raises:
        NativeUnavailable: if there is no library.
    """
    numbers, chosen = np.array(rows, np.int32), np.array(tokens, np.int32)
    totals, ranks = np.empty(len(rows), np.float32), np.empty(len(rows), np.int32)
    native_library().yuan_places(
        *(logits_bv.data_ptr(), logits_bv.stride(0), numbers.ctypes.data, len(rows), logits_bv.shape[1]),
        *(chosen.ctypes.data, torch.get_num_threads(), totals.ctypes.data, ranks.ctypes.data),
    )
    return totals.tolist(), ranks.tolist()
