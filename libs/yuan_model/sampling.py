"""Draws tokens from logits, many rows at once; what a row gives depends on nothing but the row and its own numbers.

In torch, for any device's logits and machines without a compiler; `native.drawing` does the same several times faster.
Shape suffixes: b rows, v vocabulary, c candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

_CANDIDATES = 256
"""Likeliest tokens among which the drawn one nearly always is: a whole vocabulary is sorted for other rows only."""


class Draw(NamedTuple):
    """How one token is drawn: temperature first, then top_k, top_p, min_p. Fields as drawing.h has them.

    Attributes:
        uniform: evenly drawn from [0, 1): decides.
        temperature: 0 takes the likeliest token.
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


LIKELIEST = Draw(0.0, temperature=0.0)
"""Takes the likeliest token."""


def torch_draw(logits_bv: Tensor, rows: Sequence[int], draws: Sequence[Draw] | None) -> list[int]:
    """Returns a token for each of some rows of fp32 logits; -1 where they are no numbers.

    Args:
        logits_bv: on the processor.
        rows: of which.
        draws: how, one a row; None: the likeliest.
    """
    found_bv = logits_bv[list(rows)]
    best_b = found_bv.max(dim=-1)  # NaN where there is one
    tokens = cast("list[int]", best_b.indices.tolist())  # pyright: ignore[reportUnknownMemberType]
    finite = cast("list[bool]", best_b.values.isfinite().tolist())  # pyright: ignore[reportUnknownMemberType]
    random = [row for row, draw in enumerate(draws or ()) if draw.temperature > 0 and finite[row]]
    if draws and random:
        for row, token in zip(random, draw_tokens(found_bv[random], [draws[row] for row in random]), strict=True):
            tokens[row] = token
    return [token if finite[row] else -1 for row, token in enumerate(tokens)]


def torch_places(logits_bv: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> tuple[list[float], list[int]]:
    """Returns for one token a row what its logit is above its log-probability, and its rank: 1 for the likeliest."""
    found_bv = logits_bv[list(rows)]
    chosen_b1 = found_bv.gather(1, torch.tensor(tokens)[:, None])
    totals_b, ranks_b = found_bv.logsumexp(dim=-1), (found_bv > chosen_b1).sum(dim=-1) + 1
    totals = cast("list[float]", totals_b.tolist())  # pyright: ignore[reportUnknownMemberType]
    ranks = cast("list[int]", ranks_b.tolist())  # pyright: ignore[reportUnknownMemberType]
    return totals, ranks


def draw_tokens(logits_bv: Tensor, draws: Sequence[Draw]) -> list[int]:
    """Returns a token id for each row of finite fp32 logits; temperatures are above 0."""
    temperatures = torch.tensor([draw.temperature for draw in draws])
    probabilities_bv = torch.softmax(logits_bv / temperatures[:, None], dim=-1)
    size = logits_bv.shape[1]
    some = [number for number, draw in enumerate(draws) if not draw.is_plain]
    if some:
        few = min(_CANDIDATES, size)
        found_bc, ids_bc = probabilities_bv[some].topk(few, dim=-1)
        kept_bc, enough = _kept(found_bc, [draws[number] for number in some], whole=few == size)
        probabilities_bv[some] = torch.zeros(len(some), size).scatter_(1, ids_bc, kept_bc)
        for number in (number for number, has_all in zip(some, enough, strict=True) if not has_all):
            row_v = torch.softmax(logits_bv[number] / draws[number].temperature, dim=-1)
            found_v, ids_v = row_v.sort(descending=True, stable=True)
            kept_bc, _ = _kept(found_v[None], [draws[number]], whole=True)
            probabilities_bv[number] = torch.zeros(size).scatter_(0, ids_v, kept_bc[0])
    return _inverted(probabilities_bv, draws)


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
