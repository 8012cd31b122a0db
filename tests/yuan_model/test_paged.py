"""Many sequences in one step, at any place and cut in any way, have the logits that each has alone."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.yuan_model.conftest import EOD, small_model

from yuan_model import (
    BLOCK_TOKENS,
    Chunk,
    DecodeCache,
    NativeRunner,
    NativeUnavailable,
    PagedRunner,
    PoolSize,
    Runner,
    Yuan,
)

LONGEST = 48
MODELS = {
    (reset, filtering): small_model(attention_reset_at_eod=reset, localized_filtering=filtering)
    for reset in (False, True)
    for filtering in (False, True)
}
MakeRunner = Callable[[Yuan, PoolSize], Runner]


def native(model: Yuan, size: PoolSize) -> Runner:
    try:
        return NativeRunner(model, size, threads=2)
    except NativeUnavailable as error:
        pytest.skip(str(error))


RUNNERS = [pytest.param(PagedRunner, id="torch"), pytest.param(native, id="native")]


@pytest.mark.parametrize("make", RUNNERS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10**6), count=st.integers(1, 5), reset=st.booleans(), filtering=st.booleans())
def test_sequences_in_random_steps_have_the_full_forwards_logits(
    make: MakeRunner, seed: int, count: int, reset: bool, filtering: bool
) -> None:
    draw = random.Random(seed)
    model = MODELS[reset, filtering]
    sequences = [
        [EOD if draw.random() < 0.2 else draw.randrange(40) for _ in range(draw.randint(1, LONGEST))]
        for _ in range(count)
    ]
    per_sequence = LONGEST // BLOCK_TOKENS
    slots = draw.choice([1, 5])
    runner = make(model, PoolSize(count * per_sequence, count, count * LONGEST, count * LONGEST, slots))
    free = list(range(count * per_sequence))
    draw.shuffle(free)  # blocks lie anywhere
    for row in range(count):
        runner.place(row, 0, [free.pop() for _ in range(per_sequence)])
    held = [0] * count
    with torch.inference_mode():
        full = [model(torch.tensor([tokens]))[0] for tokens in sequences]
        while left := [row for row in range(count) if held[row] < len(sequences[row])]:
            chunks: list[Chunk] = []
            for row in draw.sample(left, draw.randint(1, len(left))):
                longest = len(sequences[row]) - held[row]
                new = 1 if draw.random() < 0.5 else draw.randint(1, longest)
                chunks.append(Chunk(sequences[row], held[row], held[row] + new, row, draw.randint(0, new)))
            logits = iter(runner.step(chunks))
            for chunk in chunks:
                for position in range(chunk.stop - chunk.outputs, chunk.stop):
                    torch.testing.assert_close(next(logits), full[chunk.row][position], atol=3e-5, rtol=1e-4)
                # Of as many as there are slots, some may have been wrong guesses: they are computed again.
                wrong = draw.randint(0, min(slots, chunk.stop - chunk.start) - 1)
                held[chunk.row] = chunk.stop - wrong


@pytest.mark.parametrize("make", RUNNERS)
def test_a_row_that_begins_again_knows_nothing_of_the_sequence_before(make: MakeRunner) -> None:
    model = MODELS[False, True]
    runner = make(model, PoolSize(3, 1, 48, 1))
    with torch.inference_mode():
        for tokens in ([1, 2, 3, 4, 5], [7, 8]):
            runner.place(0, 0, [0, 1, 2])
            ours = runner.step([Chunk(tokens, 0, len(tokens), 0)])
            torch.testing.assert_close(ours, model.next_token_logits(torch.tensor([tokens])), atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("make", RUNNERS)
@pytest.mark.parametrize("reset", [False, True])
def test_a_sequence_goes_on_behind_blocks_that_another_computed_and_from_a_copied_one(
    make: MakeRunner, reset: bool
) -> None:
    model = MODELS[reset, True]
    tokens = [random.Random(1).randrange(40) for _ in range(40)]
    runner = make(model, PoolSize(6, 3, 48, 1))
    with torch.inference_mode():
        runner.place(0, 0, [5, 3, 1])
        runner.step([Chunk(tokens, 0, 40, 0)])
        other = [*tokens[:32], 7, 8, 9]
        runner.place(1, 0, [5, 3, 0])  # the first two blocks are shared
        ours = runner.step([Chunk(other, 32, 35, 1)])
        torch.testing.assert_close(ours, model.next_token_logits(torch.tensor([other])), atol=3e-5, rtol=1e-4)
        runner.copy(1, 2, 0, 2)
        runner.place(2, 0, [5, 3, 2])
        branch = [*tokens, 11]
        ours = runner.step([Chunk(branch, 40, 41, 2)])
        torch.testing.assert_close(ours, model.next_token_logits(torch.tensor([branch])), atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("make", RUNNERS)
def test_numbers_that_are_none_stay_in_their_own_sequence(make: MakeRunner) -> None:
    model = small_model()
    with torch.no_grad():
        model.embed_tokens.weight[9] = torch.nan
    runner = make(model, PoolSize(2, 2, 48, 2))
    with torch.inference_mode():
        runner.place(0, 0, [0])
        runner.place(1, 0, [1])
        ours = runner.step([Chunk([9, 2], 0, 2, 0), Chunk([1, 2], 0, 2, 1)])
    assert ours[0].isnan().any()
    assert ours[1][:9].isfinite().all()


def test_a_step_that_raises_in_the_middle_can_be_made_again() -> None:
    model = small_model()
    runner = PagedRunner(model, PoolSize(3, 1, 48, 1))
    runner.place(0, 0, [0, 1, 2])

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken")

    with torch.inference_mode():
        runner.step([Chunk([1, 2, 3], 0, 2, 0)])
        hook = model.layers[1].mlp.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="broken"):
            runner.step([Chunk([1, 2, 3], 2, 3, 0)])
        hook.remove()
        ours = runner.step([Chunk([1, 2, 3], 2, 3, 0)])
        torch.testing.assert_close(ours, model.next_token_logits(torch.tensor([[1, 2, 3]])), atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "int8"])
def test_the_compiled_step_gives_the_same_bits_whatever_shares_the_step(dtype: torch.dtype | str) -> None:
    model = small_model()
    model = model if dtype == "int8" else model.to(dtype)
    size = PoolSize(24, 8, 400, 400)
    try:
        runners = [NativeRunner(model, size, int8=dtype == "int8", threads=threads) for threads in (1, 2)]
    except NativeUnavailable as error:
        pytest.skip(str(error))
    draw = random.Random(3)
    sequences = [[draw.randrange(40) for _ in range(48)] for _ in range(8)]
    for runner in runners:
        for row in range(8):
            runner.place(row, 0, [3 * row, 3 * row + 1, 3 * row + 2])
    whole = runners[0].step([Chunk(tokens, 0, 48, row, 48) for row, tokens in enumerate(sequences)]).clone()
    for position in range(48):
        one = runners[1].step([Chunk(sequences[2], position, position + 1, 5)])
        assert torch.equal(one[0], whole[2 * 48 + position])


@pytest.mark.parametrize("drawable", [40, 37, 5])
def test_the_compiled_step_tells_the_likeliest_of_those_that_may_be_drawn(drawable: int) -> None:
    model, size = small_model(), PoolSize(12, 4, 200, 200)
    with torch.no_grad():
        model.embed_tokens.weight[4] = model.embed_tokens.weight[2]  # of equal ones the first
        model.embed_tokens.weight[30, 7] = torch.nan
    try:
        runner = NativeRunner(model, size, threads=2, drawable=drawable)
    except NativeUnavailable as error:
        pytest.skip(str(error))
    draw = random.Random(5)
    sequences = [[draw.randrange(29) for _ in range(48)] for _ in range(4)]
    for row in range(4):
        runner.place(row, 0, [3 * row, 3 * row + 1, 3 * row + 2])
    for begin, end, outputs in ((0, 40, 40), (40, 41, 1), (41, 48, 2)):
        logits = runner.step([Chunk(tokens, begin, end, row, outputs) for row, tokens in enumerate(sequences)])
        seen = logits[:, :drawable]
        expected = [-1 if bool(row.isnan().any()) else int((row == row.max()).nonzero()[0, 0]) for row in seen]
        assert runner.likeliest() == expected
        assert (expected == [-1] * len(expected)) == (drawable > 30)


def test_eight_bits_are_close_to_the_weights_that_they_stand_for() -> None:
    model = small_model()
    size = PoolSize(3, 1, 48, 48)
    try:
        exact, rounded = NativeRunner(model, size), NativeRunner(model, size, int8=True)
    except NativeUnavailable as error:
        pytest.skip(str(error))
    tokens = [random.Random(4).randrange(40) for _ in range(48)]
    logits: list[torch.Tensor] = []
    for runner in (exact, rounded):
        runner.place(0, 0, [0, 1, 2])
        logits.append(runner.step([Chunk(tokens, 0, 48, 0, 48)]).log_softmax(-1))
    difference = (logits[0] - logits[1]).abs()
    assert 1e-5 < difference.mean() < 0.05 * logits[0].std()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_numbers_that_are_none_do_not_become_some_in_eight_bits(wrong: float) -> None:
    model, size = small_model(), PoolSize(6, 2, 48, 48)
    with torch.no_grad():
        model.embed_tokens.weight[30, 7] = wrong
    try:
        runner = NativeRunner(model, size, int8=True, drawable=30)
    except NativeUnavailable as error:
        pytest.skip(str(error))
    for row in range(2):
        runner.place(row, 0, [3 * row, 3 * row + 1, 3 * row + 2])
    logits = runner.step([Chunk([1, 30, 2], 0, 3, 0), Chunk([1, 3, 2], 0, 3, 1)])
    assert logits[0].isnan().all()
    assert logits[1, :30].isfinite().all()
    assert runner.likeliest()[0] == -1
    assert runner.likeliest()[1] >= 0


@pytest.mark.parametrize("make", RUNNERS)
def test_with_bf16_angles_a_cache_and_blocks_give_the_full_forwards_logits(make: MakeRunner) -> None:
    model = small_model(rope_precision="bf16", max_position_embeddings=400)
    tokens = torch.randint(4, 40, (1, 380), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        full = model(tokens)[0, -1]
        cached = DecodeCache(model.config)
        model(tokens[:, :300], cached)
        torch.testing.assert_close(model(tokens[:, 300:], cached)[0, -1], full, atol=3e-5, rtol=1e-4)
        paged = make(model, PoolSize(25, 1, 300, 1))
        paged.place(0, 0, range(25))
        for start, stop in ((0, 300), (300, 379), (379, 380)):
            logits = paged.step([Chunk(tokens[0].tolist(), start, stop, 0)])
        torch.testing.assert_close(logits[0], full, atol=3e-5, rtol=1e-4)
        exact = small_model(max_position_embeddings=400)(tokens)[0, -1]
    assert (exact - full).abs().max() > 0.1
