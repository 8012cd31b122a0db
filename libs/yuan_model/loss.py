"""Masked cross entropy in fp32. The one entry for a loss; a block-wise form can stand behind it unseen."""

import torch
from torch import Tensor
from torch.nn import functional


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
