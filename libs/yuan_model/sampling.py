"""Draws tokens from logits, many rows at once; what a row gives depends on nothing but the row and its own numbers.

Shape suffixes: b rows, v vocabulary, c candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

_CANDIDATES = 256
"""Likeliest tokens among which the drawn one nearly always is: a whole vocabulary is sorted for other rows only."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one token is drawn: temperature first, then top_k, top_p, min_p.

    Attributes:
        uniform: evenly drawn from [0, 1): decides.
        temperature: above 0.
        top_k: only the k likeliest; 0: all.
        top_p: only the likeliest that together reach it; the likeliest always.
        min_p: only those at least this part as probable as the likeliest.
    """

    uniform: float
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether all tokens are drawn from."""
        return self.top_k == 0 and self.top_p >= 1.0 and self.min_p <= 0.0


def draw_tokens(logits_bv: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Returns a token id for each row of fp32 logits."""
    temperatures = torch.tensor([draw.temperature for draw in draws])
    probabilities_bv = torch.softmax(logits_bv / temperatures[:, None], dim=-1)
    tokens = [0] * len(draws)
    plain = [number for number, draw in enumerate(draws) if draw.is_plain]
    some = [number for number, draw in enumerate(draws) if not draw.is_plain]
    if plain:
        rows_bv = probabilities_bv if not some else probabilities_bv[plain]
        for number, token in zip(plain, _inverted(rows_bv, [draws[number] for number in plain]), strict=True):
            tokens[number] = token
    if some:
        few = min(_CANDIDATES, logits_bv.shape[1])
        found_bc, ids_bc = probabilities_bv[some].topk(few, dim=-1)
        kept_bc, enough = _kept(found_bc, [draws[number] for number in some], whole=few == logits_bv.shape[1])
        places = _inverted(kept_bc, [draws[number] for number in some])
        for row, number in enumerate(some):
            tokens[number] = (
                int(ids_bc[row, places[row]]) if enough[row] else _sorted(probabilities_bv[number], draws[number])
            )
    return tokens


def _sorted(probabilities_v: Tensor, draw: Draw) -> int:
    found_v, ids_v = probabilities_v.sort(descending=True, stable=True)
    kept_bc, _ = _kept(found_v[None], [draw], whole=True)
    return int(ids_v[_inverted(kept_bc, [draw])[0]])


def _kept(found_bc: Tensor, draws: Sequence[Draw], *, whole: bool) -> tuple[Tensor, list[bool]]:
    """Returns probabilities, likeliest first, with 0 for those that are not drawn from; and whether none is missing."""
    size = found_bc.shape[1]
    top_k = torch.tensor([draw.top_k if draw.top_k else 1 << 62 for draw in draws])[:, None]
    top_p = torch.tensor([draw.top_p for draw in draws])[:, None]
    min_p = torch.tensor([draw.min_p for draw in draws])[:, None]
    within_k = torch.arange(size) < top_k
    kept_bc = found_bc * within_k
    # The k likeliest are all there is, where there is a k: top_p is a part of what they have together.
    total = torch.where(top_k <= size, kept_bc.sum(dim=-1, keepdim=True), torch.ones(1))
    reached_bc = kept_bc.cumsum(dim=-1)
    keep_bc = (reached_bc - kept_bc < top_p * total) & (kept_bc >= min_p * kept_bc[:, :1]) & within_k
    keep_bc[:, 0] = True
    if whole:
        return kept_bc * keep_bc, [True] * len(draws)
    # What lies behind the last candidate is out if it is behind the k-th, or top_p is reached, or min_p not.
    enough = (top_k <= size) | (reached_bc[:, -1:] >= top_p * total) | (found_bc[:, -1:] < min_p * found_bc[:, :1])
    return kept_bc * keep_bc, cast("list[bool]", enough.squeeze(1).tolist())  # pyright: ignore[reportUnknownMemberType]


def _inverted(probabilities_bc: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Returns for each row the place at which the running sum passes the row's uniform number."""
    sums_bc = probabilities_bc.double().cumsum(dim=-1)
    uniforms = torch.tensor([draw.uniform for draw in draws], dtype=torch.float64)[:, None]
    places = torch.searchsorted(sums_bc, uniforms * sums_bc[:, -1:], right=True)
    found = places.squeeze(1).clamp_(max=probabilities_bc.shape[1] - 1)
    return cast("list[int]", found.tolist())  # pyright: ignore[reportUnknownMemberType]
