"""Generation draws as it is told, repeatably, and ends where it must."""

import random
from collections.abc import Callable

import pytest
import torch

from yuan_model import Yuan, generate
from yuan_model.generation import sample
from yuan_model.sampling import Draw, draw_tokens

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
