"""What training computes otherwise on a processor is what torch's own operations compute, in values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from yuan_model import CausalConvolution, processor_attention
from yuan_model.cache import steps_before
from yuan_model.causal import attend
from yuan_model.processor_attention import attend_in_blocks


def heads(length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(length)
    # As the block has them: views of [b, s, n, d].
    drawn = (torch.randn(2, length, 3, 8, generator=draw).to(dtype) for _ in range(4))
    return [tensor.transpose(1, 2).requires_grad_() for tensor in drawn]


@pytest.mark.parametrize("length", [1, 3, 4, 31, 32, 50])
def test_attention_in_blocks_is_torchs_attention(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_attention, "SHORT", 3)
    monkeypatch.setattr(processor_attention, "LONG", 4)
    *inputs, upstream = heads(length)
    ours = attend_in_blocks(*inputs)
    theirs = functional.scaled_dot_product_attention(*inputs, is_causal=True)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_attention_in_bf16_is_as_near_to_fp32_as_scores_in_bf16_let_it() -> None:
    *inputs, upstream = heads(300, torch.bfloat16)
    queries, keys, values = inputs
    scores = (queries @ keys.transpose(2, 3)) / 8**0.5 + torch.full((300, 300), -torch.inf).triu(1).bfloat16()
    written_out = torch.softmax(scores, -1, dtype=torch.float32).bfloat16() @ values
    exact = functional.scaled_dot_product_attention(*(tensor.float() for tensor in inputs), is_causal=True)
    ours = attend(queries, keys, values, None)
    assert ours.grad_fn is not None
    assert "_Attention" in type(ours.grad_fn).__name__
    for mine, plain, wanted in zip(
        (ours, *torch.autograd.grad(ours, inputs, upstream)),
        (written_out, *torch.autograd.grad(written_out, inputs, upstream)),
        (exact, *torch.autograd.grad(exact, inputs, upstream.float())),
        strict=True,
    ):
        assert (mine.float() - wanted.float()).abs().mean() <= 1.2 * (plain.float() - wanted.float()).abs().mean()


@pytest.mark.parametrize("trained", [True, False])
def test_a_convolution_over_sequences_is_that_of_each_step_and_the_one_before(trained: bool) -> None:
    torch.manual_seed(1)
    ours = CausalConvolution(6, 4)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    ours.requires_grad_(trained)
    steps, upstream = torch.randn(2, 5, 6, requires_grad=True), torch.randn(2, 5, 4)
    wanted = [steps, *(ours.parameters() if trained else ())]
    found = torch.autograd.grad(ours.over_sequence(steps), wanted, upstream)
    expected = torch.autograd.grad(ours(steps, steps_before(0, steps)), wanted, upstream)
    torch.testing.assert_close(ours.over_sequence(steps), ours(steps, steps_before(0, steps)))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other)
