"""Attention by flash-attn is torch's own; how documents and pages are told to it can be checked anywhere."""

import random
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from yuan_model import (
    FLASH_PAGE_TOKENS,
    Chunk,
    FlashPages,
    PagedRunner,
    PoolSize,
    Yuan,
    YuanConfig,
    document_segments,
    initialize_,
)
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


def paged_attention(
    queries_bsnd: Tensor, keys: Tensor, values: Tensor, *, cache_seqlens: Tensor, block_table: Tensor, causal: bool
) -> Tensor:
    """What flash-attn 2 documents of `flash_attn_with_kvcache` over pages, in torch."""
    assert keys.shape[1] % 256 == 0, "page_block_size must be a multiple of 256"
    assert keys.stride(-1) == values.stride(-1) == 1
    assert {cache_seqlens.dtype, block_table.dtype} == {torch.int32}
    assert causal
    outputs: list[Tensor] = []
    for queries_snd, length, table in zip(queries_bsnd, cache_seqlens.tolist(), block_table.long(), strict=True):
        parts = [pages[table].flatten(0, 1)[:length].transpose(0, 1) for pages in (keys, values)]
        # The last query sees the last key.
        seen = torch.ones(len(queries_snd), length, dtype=torch.bool).tril(length - len(queries_snd))
        output_nsd = scaled_dot_product_attention(queries_snd.transpose(0, 1), *parts, attn_mask=seen)
        outputs.append(output_nsd.transpose(0, 1))
    return torch.stack(outputs)


def test_sequences_on_pages_of_flash_attn_have_the_full_forwards_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("flash_attn")
    stand_in.flash_attn_with_kvcache = paged_attention  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", stand_in)
    config = YuanConfig(40, 32, 2, 2, 48, 640, initializer_range=0.2)
    model = Yuan(config).eval()
    initialize_(model, config, 3)
    size = PoolSize(7, 3, 1000, 1000, block_tokens=FLASH_PAGE_TOKENS)
    runner = PagedRunner(model, size, flash=FlashPages())
    draw = random.Random(5)
    sequences = [[draw.randrange(40) for _ in range(length)] for length in (540, 300, 260)]
    for row, pages in enumerate(([6, 0, 3], [2, 5], [4, 1])):  # they lie anywhere
        runner.place(row, 0, pages)
    # Prompts and who decodes share steps; a part begins at a page's first token, too.
    steps = [[(0, 512), (1, 255)], [(0, 513), (1, 256), (2, 256)], [(2, 257), (0, 514), (1, 300)], [(0, 540), (2, 258)]]
    held = [0, 0, 0]
    with torch.inference_mode():
        full = [model(torch.tensor([tokens]))[0] for tokens in sequences]
        for step in steps:
            chunks = [Chunk(sequences[row], held[row], stop, row, stop - held[row]) for row, stop in step]
            logits = runner.step(chunks)
            expected = torch.cat([full[chunk.row][chunk.start : chunk.stop] for chunk in chunks])
            torch.testing.assert_close(logits, expected, atol=3e-5, rtol=1e-4)
            for chunk in chunks:
                held[chunk.row] = chunk.stop
        assert held == [540, 300, 258]


def test_pages_of_flash_attn_are_for_half_precision_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yuan_model.flash.flash_installed", lambda: True)
    config, cuda = YuanConfig(40, 32, 2, 2, 48, 64), torch.device("cuda")
    assert FlashPages.able(config, torch.bfloat16, cuda)
    assert not FlashPages.able(config, torch.float32, cuda)
    assert not FlashPages.able(config, torch.bfloat16, torch.device("cpu"))
    resetting = replace(config, attention_reset_at_eod=True, eod_token_id=EOD)
    assert not FlashPages.able(resetting, torch.bfloat16, cuda)


@pytest.mark.skipif(not (flash_installed() and torch.cuda.is_available()), reason="needs CUDA and flash-attn")
def test_flash_attns_own_paged_kernel_does_what_is_documented() -> None:
    draw = torch.Generator(device="cuda").manual_seed(0)
    pool = torch.randn(6, 256, 2, 3, 64, device="cuda", generator=draw).to(torch.bfloat16)
    queries = torch.randn(1, 3, 34, 64, device="cuda", generator=draw).to(torch.bfloat16)
    tables = torch.tensor([[5, 0], [1, 3], [2, 4]], device="cuda", dtype=torch.int32)
    stops = torch.tensor([300, 17, 290], device="cuda", dtype=torch.int32)
    pages = FlashPages()
    calls = pages.calls(tables, stops, 2, torch.tensor([1, 1, 32]))
    found = pages.attend(calls, queries, pool[:, :, 0], pool[:, :, 1])
    stand_in = FlashPages()
    stand_in._flash = SimpleNamespace(flash_attn_with_kvcache=paged_attention)
    calls = stand_in.calls(tables.cpu(), stops.cpu(), 2, torch.tensor([1, 1, 32]))
    expected = stand_in.attend(calls, queries.cpu().float(), *(pool[:, :, part].cpu().float() for part in (0, 1)))
    torch.testing.assert_close(found.cpu().float(), expected, atol=2e-2, rtol=2e-2)
