"""Attention by flash-attn is torch's own; how documents are told to it can be checked anywhere."""

import pytest
import torch
from torch import Tensor

from yuan_model import document_segments
from yuan_model.causal import attend
from yuan_model.flash import document_bounds, flash_attend, flash_installed

EOD = 3


def segments() -> Tensor:
    return document_segments(torch.tensor([[5, EOD, 6, 6, EOD, EOD, 7], [EOD, 1, 1, 1, 1, 1, EOD]]), EOD)


def alone(queries_tnd: Tensor, keys_tnd: Tensor, values_tnd: Tensor) -> Tensor:
    queries, keys, values = (part.transpose(0, 1)[None] for part in (queries_tnd, keys_tnd, values_tnd))
    return attend(queries, keys, values, None)[0].transpose(0, 1)


def test_documents_bounds_are_their_first_tokens_in_the_row_of_all() -> None:
    bounds, longest = document_bounds(segments())
    assert bounds.tolist() == [0, 2, 5, 6, 7, 8, 14]
    assert bounds.dtype == torch.int32
    assert longest == 6


def test_a_sequence_begins_a_document_though_its_number_is_that_of_the_sequence_before() -> None:
    bounds, longest = document_bounds(torch.zeros(3, 4, dtype=torch.int64))
    assert bounds.tolist() == [0, 4, 8, 12]
    assert longest == 4


def test_attention_inside_the_bounds_is_attention_under_the_mask() -> None:
    draw = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(2, 3, 7, 8, generator=draw) for _ in range(3))
    bounds, _ = document_bounds(segments())
    rows = [part.transpose(1, 2).flatten(0, 1) for part in (queries, keys, values)]
    pieces = [
        alone(rows[0][begin:end], rows[1][begin:end], rows[2][begin:end])
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    together = torch.cat(pieces).view(2, 7, 3, 8).transpose(1, 2)
    torch.testing.assert_close(together, attend(queries, keys, values, segments()))


@pytest.mark.skipif(not (flash_installed() and torch.cuda.is_available()), reason="needs CUDA and flash-attn")
@pytest.mark.parametrize("reset", [False, True])
def test_flash_attention_is_torchs_own_in_values_and_gradients(reset: bool) -> None:
    document_numbers = segments().cuda() if reset else None
    found: list[list[Tensor]] = []
    for backend in (attend, flash_attend):
        draw = torch.Generator(device="cuda").manual_seed(0)
        parts = torch.randn(3, 2, 3, 7, 64, device="cuda", generator=draw).to(torch.bfloat16).requires_grad_()
        output = backend(parts[0], parts[1], parts[2], document_numbers, 0.0)
        output.float().square().sum().backward()
        assert parts.grad is not None
        found.append([output, parts.grad])
    torch.testing.assert_close(found[1], found[0], atol=2e-2, rtol=2e-2)
