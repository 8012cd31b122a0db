"""Many sequences in one step, at any place and cut in any way, have the logits that each has alone."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.yuan_model.conftest import EOD, small_model

from yuan_model import Chunk, DecodeCache, PagedCache, paged_logits

MODELS = {
    (reset, filtering): small_model(attention_reset_at_eod=reset, localized_filtering=filtering)
    for reset in (False, True)
    for filtering in (False, True)
}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 5),
    block_tokens=st.integers(1, 9),
    reset=st.booleans(),
    filtering=st.booleans(),
)
def test_sequences_in_random_steps_have_the_full_forwards_logits(
    seed: int, count: int, block_tokens: int, reset: bool, filtering: bool
) -> None:
    draw = random.Random(seed)
    model = MODELS[reset, filtering]
    sequences = [
        [EOD if draw.random() < 0.2 else draw.randrange(40) for _ in range(draw.randint(1, 48))] for _ in range(count)
    ]
    per_sequence = -(-48 // block_tokens)
    cache = PagedCache(model, count * per_sequence, block_tokens, count)
    free = list(range(count * per_sequence))
    draw.shuffle(free)  # blocks lie anywhere
    for row in range(count):
        cache.begin(row)
        cache.place(row, 0, [free.pop() for _ in range(per_sequence)])
    held = [0] * count
    with torch.inference_mode():
        full = [model(torch.tensor([tokens]))[0] for tokens in sequences]
        while left := [row for row in range(count) if held[row] < len(sequences[row])]:
            rows = draw.sample(left, draw.randint(1, len(left)))
            chunks = [
                Chunk(sequences[row], held[row], held[row] + draw.randint(1, len(sequences[row]) - held[row]), row)
                if draw.random() < 0.5
                else Chunk(sequences[row], held[row], held[row] + 1, row)
                for row in rows
            ]
            logits = paged_logits(model, cache, chunks)
            for chunk, ours in zip(chunks, logits, strict=True):
                torch.testing.assert_close(ours, full[chunk.row][chunk.stop - 1], atol=3e-5, rtol=1e-4)
                held[chunk.row] = chunk.stop


def test_a_row_that_begins_again_knows_nothing_of_the_sequence_before() -> None:
    model = MODELS[False, True]
    cache = PagedCache(model, 12, 4, 1)
    with torch.inference_mode():
        for tokens in ([1, 2, 3, 4, 5], [7, 8]):
            cache.begin(0)
            cache.place(0, 0, list(range(12)))
            ours = paged_logits(model, cache, [Chunk(tokens, 0, len(tokens), 0)])
            torch.testing.assert_close(ours, model.next_token_logits(torch.tensor([tokens])), atol=3e-5, rtol=1e-4)


def test_a_step_that_raises_in_the_middle_can_be_made_again() -> None:
    model = small_model()
    cache = PagedCache(model, 12, 4, 1)
    cache.begin(0)
    cache.place(0, 0, list(range(12)))

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken")

    with torch.inference_mode():
        paged_logits(model, cache, [Chunk([1, 2, 3], 0, 2, 0)])
        hook = model.layers[1].mlp.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="broken"):
            paged_logits(model, cache, [Chunk([1, 2, 3], 2, 3, 0)])
        hook.remove()
        ours = paged_logits(model, cache, [Chunk([1, 2, 3], 2, 3, 0)])
        torch.testing.assert_close(ours, model.next_token_logits(torch.tensor([[1, 2, 3]])), atol=3e-5, rtol=1e-4)


def test_with_bf16_angles_a_cache_and_blocks_give_the_full_forwards_logits() -> None:
    model = small_model(rope_precision="bf16", max_position_embeddings=400)
    tokens = torch.randint(4, 40, (1, 380), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        full = model(tokens)[0, -1]
        cached = DecodeCache(model.config)
        model(tokens[:, :300], cached)
        torch.testing.assert_close(model(tokens[:, 300:], cached)[0, -1], full, atol=3e-5, rtol=1e-4)
        paged = PagedCache(model, 50, 8, 1)
        paged.begin(0)
        paged.place(0, 0, range(50))
        for start, stop in ((0, 300), (300, 379), (379, 380)):
            logits = paged_logits(model, paged, [Chunk(tokens[0].tolist(), start, stop, 0)])
        torch.testing.assert_close(logits[0], full, atol=3e-5, rtol=1e-4)
        exact = small_model(max_position_embeddings=400)(tokens)[0, -1]
    assert (exact - full).abs().max() > 0.1
