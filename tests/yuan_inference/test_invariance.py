"""What a request gets depends on itself alone: not on its batch, arrival, chunks, preemption, prefix or guesses."""

import copy
import random
import time
from collections.abc import Callable

import pytest
import torch
from tests.yuan_inference.engines import Asked

from yuan_inference.engine import Engine, EngineOptions
from yuan_inference.loaded import LoadedModel
from yuan_model import NativeUnavailable, PagedRunner, native_library

CERTAIN = 1e-3
"""Where the two likeliest logits are further apart than this, fp32 rounding cannot exchange them."""


def schedules(draw: random.Random) -> EngineOptions:
    return EngineOptions(
        max_batch=draw.choice([2, 5]),
        kv_tokens=draw.choice([7 * 16, 40 * 16]),
        step_tokens=draw.choice([3, 16, 64]),
        prefix_cache=draw.random() < 0.7,
        prompt_lookup=draw.choice([0, 0, 3]),
    )


def ask_at_random(engine: Engine, draw: random.Random, count: int) -> list[Asked]:
    beginnings = [[draw.randrange(3, 360) for _ in range(20)] for _ in range(2)]
    asked: list[Asked] = []
    for _ in range(count):
        prompt = [*draw.choice([*beginnings, []]), *(draw.randrange(3, 360) for _ in range(draw.randint(1, 20)))]
        asked.append(Asked(engine, prompt, max_tokens=draw.randint(1, 20), ignore_eos=True, logprobs=0))
        time.sleep(draw.choice([0, 0, 0.003]))
    return asked


def check_against_full_forwards(loaded: LoadedModel, asked: list[Asked], close: float) -> None:
    for one in asked:
        tokens = [*one.request.prompt_ids, *one.tokens]
        with torch.inference_mode():
            scores = loaded.model(torch.tensor([tokens]))[0].float().log_softmax(-1)
        told = [told for output in one.received for told in output.logprobs]
        assert len(told) == len(one.tokens) == one.request.sampling.max_tokens
        for place, token in enumerate(one.tokens, len(one.request.prompt_ids)):
            best = scores[place - 1].topk(2).values
            if best[0] - best[1] > CERTAIN:
                assert scores[place - 1, token] >= best[0] - (0 if close < 0.01 else close)
            assert told[place - len(one.request.prompt_ids)].logprob == pytest.approx(
                float(scores[place - 1, token]), abs=close
            )


@pytest.fixture(params=["native", "torch"])
def runners(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(
            "yuan_inference.engine.engine.make_runner", lambda loaded, size: PagedRunner(loaded.model, size)
        )
    else:
        need_native()


def need_native() -> None:
    try:
        native_library()
    except NativeUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("runners")
def test_greedy_tokens_are_those_of_the_full_forward_in_any_schedule(loaded: LoadedModel, seed: int) -> None:
    draw = random.Random(seed)
    with Engine("tiny", loaded, schedules(draw)) as engine:
        asked = ask_at_random(engine, draw, 12)
        check_against_full_forwards(loaded, asked, 1e-4)
        assert engine.used_blocks == 0


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.usefixtures("runners")
def test_in_bf16_the_chosen_log_probabilities_are_close_in_any_schedule(loaded: LoadedModel, seed: int) -> None:
    # The other tests' weights make logits of tens, of which bf16 keeps no 0.05: these are of a trained model's size.
    model = copy.deepcopy(loaded.model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(0.15)
    half = LoadedModel(model.to(torch.bfloat16), loaded.tokenizer)
    draw = random.Random(seed)
    with Engine("half", half, schedules(draw)) as engine:
        check_against_full_forwards(half, ask_at_random(engine, draw, 10), 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_steps_give_the_same_bits_in_every_schedule(loaded: LoadedModel, dtype: torch.dtype) -> None:
    need_native()
    one_dtype = LoadedModel(copy.deepcopy(loaded.model).to(dtype), loaded.tokenizer)
    answers: list[list[tuple[int, float]]] = []
    for seed, options in enumerate(
        [EngineOptions(max_batch=1, prefix_cache=False), *map(schedules, map(random.Random, range(4)))]
    ):
        with Engine("tiny", one_dtype, options) as engine:
            draw = random.Random(7)
            asked = ask_at_random(engine, draw, 8)
            del seed
            told = [told for one in asked for output in list(one) or one.received for told in output.logprobs]
            answers.append([(one.token, one.logprob) for one in told])
    assert all(answer == answers[0] for answer in answers)


def test_drawn_tokens_are_the_same_for_a_seed_in_any_schedule(loaded: LoadedModel) -> None:
    def drawn(options: EngineOptions, others: int) -> list[list[int]]:
        with Engine("tiny", loaded, options) as engine:
            for number in range(others):
                Asked(engine, [7, number], max_tokens=30, ignore_eos=True, temperature=1.0)
            asked = [
                Asked(engine, [5, 6], temperature=0.9, seed=seed, top_p=0.9, top_k=50, min_p=0.01, ignore_eos=True)
                for seed in range(4)
            ]
            return [one.tokens for one in asked]

    alone = drawn(EngineOptions(max_batch=1), 0)
    assert drawn(EngineOptions(max_batch=6, step_tokens=5, prompt_lookup=2), 6) == alone
    assert len({tuple(tokens) for tokens in alone}) == 4


def test_guesses_from_the_text_are_computed_at_once_and_change_nothing(loaded: LoadedModel) -> None:
    prompt = [5, 6, 7, 8, 9, 10] * 4
    answers: list[list[int]] = []
    for guesses in (0, 4):
        with Engine("tiny", loaded, EngineOptions(prompt_lookup=guesses)) as engine:
            steps = _count_steps(engine)
            # A model that repeats: its bias makes the text come again.
            bias = tuple((token, 25.0) for token in (5, 6, 7))
            asked = Asked(engine, prompt, max_tokens=30, ignore_eos=True, logit_bias=bias, repetition_penalty=1.01)
            answers.append(asked.tokens)
            if guesses:
                assert steps() < 30
    assert answers[0] == answers[1]


def _count_steps(engine: Engine) -> Callable[[], int]:
    from tests.yuan_inference.engines import Watched

    made: list[int] = []

    def step(runner: object, chunks: object) -> torch.Tensor:
        made.append(1)
        return runner.step(chunks)  # type: ignore[attr-defined]

    Watched(engine, step)
    return lambda: len(made)
