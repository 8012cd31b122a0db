"""Masked cross entropy in fp32: of logits, or of hidden states block by block, so that all logits never exist.

Shape suffixes: b batch, s sequence, t tokens (of one block, or of all that count), h hidden, v vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from yuan_model.native import training

BLOCK_LOGITS = 1 << 25
"""Numbers in one block's logits where no size is asked for: 128 MiB in fp32, and products as fast as undivided ones."""


class VocabularyShard(Protocol):
    """Which rows of the vocabulary this rank holds, and how it agrees with those that hold the others."""

    @property
    def offset(self) -> int:
        """The token id of this rank's first row."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sums over the ranks that share the vocabulary, fp32 in the shape of `values`."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """Returns the largest over the ranks that share the vocabulary, fp32 in the shape of `values`."""
        ...


def cross_entropy(logits: Tensor, labels: Tensor, loss_mask: Tensor | None = None) -> Tensor:
    """Returns sum(loss * mask) / sum(mask) as an fp32 scalar; 0 where the mask counts nothing.

    Args:
        logits: [b, s, v], any floating dtype.
        labels: int64 [b, s]; labels[t] is the target of position t (nothing is shifted here).
        loss_mask: [b, s], the weight of each position; None counts all alike.
    """
    loss_per_token = functional.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none")
    if loss_mask is None:
        return loss_per_token.mean()
    mask = loss_mask.flatten().float()
    counted = mask.sum()
    return (loss_per_token * mask).sum() / torch.where(counted > 0, counted, torch.ones_like(counted))


def blockwise_cross_entropy(
    hidden_bsh: Tensor,
    weight_vh: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    block_tokens: int | None = None,
    *,
    shard: VocabularyShard | None = None,
) -> Tensor:
    """Returns `cross_entropy(hidden @ weight^T, labels, mask)` without ever holding all logits (arXiv 2311.15786, 3.4).

    The paper computes each block's logits again in the backward pass. Here they are computed once: what follows the
    loss can only multiply its gradient by one number, so that the gradients are made with the loss, up to that number.
    Positions that do not count are left out of the computation. Can be differentiated once.

    Args:
        hidden_bsh: normed hidden states [b, s, h].
        weight_vh: the output projection [v, h]; its gradient is accumulated in fp32.
        labels: int64 [b, s]; labels[t] is the target of position t.
        mask: [b, s], the weight of each position; None counts all alike.
        block_tokens: logits of so many tokens exist at once; 0: of all; None: as many as make `BLOCK_LOGITS` numbers.
        shard: where `weight_vh` is a part of the vocabulary. The loss is then that of the whole, on every rank, but the
            gradient of `hidden_bsh` is this part's share: the caller sums it over the ranks, as the backward pass of
            the operation that gives each rank the hidden states does.
    """
    weights_t = None if mask is None else mask.flatten().float()
    if block_tokens is None:
        block_tokens = max(1, BLOCK_LOGITS // weight_vh.shape[0])
    hidden_th, labels_t = hidden_bsh.flatten(0, -2), labels.flatten()
    task = _Task(labels_t, weights_t, block_tokens or max(1, labels_t.numel()), shard, torch.is_grad_enabled())
    return _BlockwiseLoss.apply(hidden_th, weight_vh, task)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Task:
    """What a loss is taken of, and how. gradients: whether anyone can ask for them."""

    labels_t: Tensor
    weights_t: Tensor | None
    block_tokens: int
    shard: VocabularyShard | None
    gradients: bool


class _BlockwiseLoss(torch.autograd.Function):
    """The loss of all blocks, and their gradients with it.

    Gradients are kept in fp32 for sum(loss * mask) and divided and scaled by what follows in `backward`: in fp16 they
    would otherwise be rounded to zero before the loss scale could reach them.
    """

    @staticmethod
    def forward(ctx: Any, hidden_th: Tensor, weight_vh: Tensor, task: _Task) -> Tensor:  # type: ignore[override]
        weights_t = task.weights_t
        wants_hidden, wants_weight = (task.gradients and wanted for wanted in ctx.needs_input_grad[:2])
        gradient_th = torch.zeros_like(hidden_th, dtype=torch.float32) if wants_hidden else None
        gradient_vh = torch.zeros_like(weight_vh, dtype=torch.float32) if wants_weight else None
        counted_rows = None if weights_t is None else _counted(weights_t)
        total = torch.zeros((), dtype=torch.float32, device=hidden_th.device)
        count = hidden_th.shape[0] if counted_rows is None else counted_rows.numel()
        for start in range(0, count, task.block_tokens):
            stop = min(start + task.block_tokens, count)
            rows = slice(start, stop) if counted_rows is None else counted_rows[start:stop]
            block = hidden_th[rows]
            block_weights_t = None if weights_t is None else weights_t[rows]
            losses_t, gradients_tv = _weighted_losses(
                block,
                weight_vh,
                task.labels_t[rows],
                block_weights_t,
                shard=task.shard,
                gradients=wants_hidden or wants_weight,
            )
            total += losses_t.sum()
            if gradients_tv is None:
                continue
            if gradient_th is not None:
                gradient_th[rows] = (gradients_tv @ weight_vh).float()
            if gradient_vh is not None:
                _add_product(gradient_vh, gradients_tv.t(), block)
        divisor = weights_t.sum() if weights_t is not None else total.new_tensor(float(hidden_th.shape[0]))
        divisor = torch.where(divisor > 0, divisor, torch.ones_like(divisor))
        ctx.gradients = (gradient_th, gradient_vh)
        ctx.dtypes = (hidden_th.dtype, weight_vh.dtype)
        ctx.divisor = divisor
        return total / divisor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        if ctx.gradients is None:
            raise RuntimeError("blockwise_cross_entropy: its gradients were already taken; compute the loss again")
        scale = upstream.float() / ctx.divisor
        (hidden, weight), ctx.gradients = ctx.gradients, None
        found = [
            None if gradient is None else gradient.mul_(scale).to(dtype)
            for gradient, dtype in zip((hidden, weight), ctx.dtypes, strict=True)
        ]
        return found[0], found[1], None


def _counted(weights_t: Tensor) -> Tensor | None:
    """Returns the positions that count, or None where all do."""
    rows = weights_t.nonzero().squeeze(1)
    return None if rows.numel() == weights_t.numel() else rows


def _weighted_losses(
    hidden_th: Tensor,
    weight_vh: Tensor,
    labels_t: Tensor,
    weights_t: Tensor | None,
    *,
    shard: VocabularyShard | None,
    gradients: bool,
) -> tuple[Tensor, Tensor | None]:
    """Returns a block's weighted losses [t], and their gradients with respect to its logits [t, v] in their dtype."""
    if gradients and shard is None and training.usable(weight_vh, weight_vh.shape[0]):
        logits_tv = functional.linear(hidden_th, weight_vh)
        return training.cross_entropy_(logits_tv, labels_t, weights_t, gradients=True), logits_tv
    losses_t, logits_tv = _losses(hidden_th, weight_vh, labels_t, shard, gradients=gradients)
    if weights_t is not None:
        losses_t *= weights_t
    if logits_tv is None:
        return losses_t, None
    if weights_t is not None:
        logits_tv *= weights_t.unsqueeze(1)
    return losses_t, logits_tv.to(weight_vh.dtype)


def _losses(
    hidden_th: Tensor, weight_vh: Tensor, labels_t: Tensor, shard: VocabularyShard | None, *, gradients: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns a block's losses [t] and, where wanted, their gradients with respect to its logits [t, v], fp32."""
    logits_tv = functional.linear(hidden_th, weight_vh).float()
    largest_t1 = logits_tv.amax(dim=1, keepdim=True)
    if shard is not None:
        largest_t1 = shard.max(largest_t1)
    logits_tv -= largest_t1
    here_t, held_t = labels_t, None
    if shard is not None:
        here_t = labels_t - shard.offset
        held_t = (here_t >= 0) & (here_t < weight_vh.shape[0])
        here_t = here_t.where(held_t, 0)
    target_t = logits_tv.gather(1, here_t.unsqueeze(1)).squeeze(1)
    sums_t = logits_tv.exp_().sum(dim=1)
    if shard is not None and held_t is not None:
        target_t, sums_t = shard.sum(torch.stack((target_t * held_t, sums_t)))
    losses_t = sums_t.log() - target_t
    if not gradients:
        return losses_t, None
    logits_tv /= sums_t.unsqueeze(1)
    right_t = torch.full_like(sums_t, -1.0) if held_t is None else -held_t.float()
    logits_tv.scatter_add_(1, here_t.unsqueeze(1), right_t.unsqueeze(1))
    return losses_t, logits_tv


def _add_product(sum_vh: Tensor, left_vt: Tensor, right_th: Tensor) -> None:
    """Adds left @ right to an fp32 sum, in place."""
    if right_th.dtype == torch.float32:
        sum_vh.addmm_(left_vt, right_th)
    else:
        sum_vh += left_vt @ right_th
