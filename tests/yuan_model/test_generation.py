"""Generation draws as it is told, repeatably, and ends where it must."""

import random
from collections.abc import Callable

import pytest
import torch

from yuan_model import Yuan, generate
from yuan_model.generation import sample
from yuan_model.native import NativeUnavailable, native_draw, native_library, native_places
from yuan_model.sampling import LIKELIEST, Draw, draw_tokens, torch_draw, torch_places

PROMPT = [5, 9, 2]


def greedy_by_full_forwards(model: Yuan, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_temperature_zero_takes_the_likeliest_token_each_time(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    assert list(generate(model, PROMPT, 20)) == greedy_by_full_forwards(model, PROMPT, 20)


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    runs = [list(generate(model, PROMPT, 20, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_stop_token_ends_the_sequence_and_is_not_yielded(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    whole = list(generate(model, PROMPT, 20))
    stop = whole[4]
    assert list(generate(model, PROMPT, 20, stop_token_ids={stop})) == whole[: whole.index(stop)]


def test_a_generation_may_fill_the_context_and_not_one_token_more(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    assert len(list(generate(model, PROMPT, 45))) == 45
    with pytest.raises(ValueError, match=r"prompt of 3 tokens plus 46 new ones is longer than .* 48"):
        next(generate(model, PROMPT, 46))


def test_an_empty_prompt_is_refused(small_model: Callable[..., Yuan]) -> None:
    with pytest.raises(ValueError, match="holds no token"):
        next(generate(small_model(), [], 1))


def test_rows_that_only_pad_the_embedding_are_never_taken(small_model: Callable[..., Yuan]) -> None:
    drawn = list(generate(small_model(), PROMPT, 45, temperature=50.0, vocabulary=4))
    assert max(drawn) < 4


def drawn_from(logits: list[float], draws: int = 400, **options: float) -> set[int]:
    source = random.Random(0)
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **options}
    top_k = int(settings.pop("top_k"))
    return {sample(torch.tensor(logits), source=source, top_k=top_k, **settings) for _ in range(draws)}


def test_top_k_draws_from_the_k_likeliest_only() -> None:
    assert drawn_from([0.0, 1.0, 0.5, 0.9], top_k=2) == {1, 3}
    assert drawn_from([0.0, 1.0, 0.5, 0.9], top_k=9) == {0, 1, 2, 3}


def test_top_p_draws_from_the_fewest_tokens_that_reach_it() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.15, 0.25]).log().tolist()
    assert drawn_from(probabilities, top_p=0.4) == {1}
    assert drawn_from(probabilities, top_p=0.6) == {1, 3}
    assert drawn_from(probabilities, top_p=0.8) == {1, 2, 3}
    assert drawn_from(probabilities, top_p=0.0) == {1}


def test_frequencies_follow_the_probabilities_at_the_temperature() -> None:
    source = random.Random(0)
    logits = torch.tensor([0.3, 0.7]).log()
    draws = [sample(logits, 0.5, 0, 1.0, source) for _ in range(3000)]
    assert sum(draws) / 3000 == pytest.approx(0.49 / (0.49 + 0.09), abs=0.03)


def test_a_row_draws_the_same_token_whatever_other_rows_there_are_and_however_flat_it_is() -> None:
    source = random.Random(1)
    logits = torch.randn(24, 2000, generator=torch.Generator().manual_seed(2))
    logits[::3] *= 0.01  # the likeliest few hundred have little of all there is
    draws = [
        Draw(source.random(), 0.5 + source.random(), source.choice([0, 5, 900]), source.choice([1.0, 0.9]), min_p)
        for min_p in [0.0, 0.02] * 12
    ]
    together = draw_tokens(logits, draws)
    assert together == [draw_tokens(logits[row : row + 1], [draw])[0] for row, draw in enumerate(draws)]
    for row, draw in enumerate(draws):
        probabilities = torch.softmax(logits[row] / draw.temperature, -1)
        rank = int((probabilities > probabilities[together[row]]).sum())
        assert not draw.top_k or rank < draw.top_k
        assert probabilities[together[row]] >= draw.min_p * probabilities.max()


def test_min_p_draws_from_tokens_that_are_at_least_this_part_as_probable_as_the_likeliest() -> None:
    logits = torch.tensor([0.1, 0.5, 0.15, 0.25]).log()[None]
    source = random.Random(3)
    assert {draw_tokens(logits, [Draw(source.random(), min_p=0.4)])[0] for _ in range(300)} == {1, 3}


@pytest.fixture
def _compiled() -> None:
    try:
        native_library()
    except NativeUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("vocabulary", [5, 300, 1000])
def test_the_compiled_library_draws_what_torch_draws(vocabulary: int) -> None:
    source, generator = random.Random(4), torch.Generator().manual_seed(5)
    scales = torch.tensor([0.01, 1.0, 4.0, 20.0]).repeat(60)[:, None]
    logits = torch.randn(240, vocabulary + 3, generator=generator) * scales
    logits[::7] = logits[::7].round()  # many are equal
    logits = logits[:, :vocabulary]
    draws = [
        Draw(
            source.random(),
            source.choice([0.0, 0.3, 1.0, 5.0]),
            source.choice([0, 1, 3, vocabulary + 9]),
            source.choice([0.0, 0.3, 0.9, 1.0]),
            source.choice([0.0, 0.05, 1.0]),
        )
        for _ in range(240)
    ]
    rows = source.sample(range(240), 240)
    expected = torch_draw(logits, rows, draws)
    found = native_draw(logits, rows, draws)
    # Which of equal ones topk takes first is torch's own; sums are rounded differently.
    alone = [place for place in range(240) if rows[place] % 7]
    assert sum(found[place] != expected[place] for place in alone) <= 2
    for place in range(240):
        assert found[place] == native_draw(logits, [rows[place]], [draws[place]])[0]
    assert native_draw(logits, rows, None) == torch_draw(logits, rows, None) == logits[rows].argmax(-1).tolist()


@pytest.mark.usefixtures("_compiled")
def test_of_equal_tokens_the_first_are_drawn_from() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0, 1.0, 2.0, 1.0])[None]
    source = random.Random(6)

    def found(**options: float) -> set[int]:
        return {native_draw(logits, [0], [Draw(source.random(), **options)])[0] for _ in range(200)}

    assert found(top_k=1) == {1}
    assert found(top_k=3) == {1, 2, 4}
    assert found(top_p=0.2) == {1}
    assert found(top_p=0.6) == {1, 4}
    assert found(top_p=0.7) == {1, 2, 4}


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_row_that_is_no_numbers_gives_no_token_and_others_do(wrong: float) -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(7))
    logits[1, 39] = wrong
    for draw in (native_draw, torch_draw):
        assert [token < 0 for token in draw(logits, [0, 1, 2], [LIKELIEST, Draw(0.5), Draw(0.5)])] == [
            False,
            True,
            False,
        ]


@pytest.mark.usefixtures("_compiled")
def test_the_compiled_library_says_how_probable_tokens_are() -> None:
    logits = torch.randn(9, 700, generator=torch.Generator().manual_seed(8)) * 5
    rows, tokens = [3, 0, 8, 3], [1, 2, 699, 600]
    totals, ranks = native_places(logits, rows, tokens)
    expected_totals, expected_ranks = torch_places(logits, rows, tokens)
    assert totals == pytest.approx(expected_totals, abs=1e-5)
    assert ranks == expected_ranks
