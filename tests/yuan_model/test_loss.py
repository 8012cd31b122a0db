"""The loss counts what its mask says, in fp32."""

import pytest
import torch
from torch.nn import functional

from yuan_model import cross_entropy


def test_only_masked_in_positions_count_and_by_their_weight() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 11), torch.randint(0, 11, (2, 5))
    mask = torch.tensor([[1.0, 0, 0, 0.5, 0], [0, 0, 1, 0, 0]])
    per_token = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, labels, mask), (per_token * mask).sum() / 2.5)


def test_a_mask_that_counts_nothing_gives_zero_and_zero_gradients() -> None:
    logits = torch.randn(1, 3, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_the_loss_is_fp32_for_bf16_logits_and_any_mask(mask_dtype: torch.dtype) -> None:
    logits = torch.randn(1, 300, 50).to(torch.bfloat16)
    labels = torch.randint(0, 50, (1, 300))
    loss = cross_entropy(logits, labels, torch.ones(1, 300, dtype=mask_dtype))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, functional.cross_entropy(logits.float()[0], labels[0]))
