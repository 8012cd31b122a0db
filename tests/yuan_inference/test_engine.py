"""The engine: whatever shares the batch, a request's continuation is the one that it has alone."""

import random
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from tests.tiny_models import CONTEXT
from tests.yuan_inference.engines import Asked, alone, wait_for

from yuan_inference.engine import Engine, EngineOptions, EngineStopped, FinishReason, QueueFull
from yuan_inference.loaded import LoadedModel


@pytest.fixture
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    with Engine("tiny", loaded, EngineOptions(max_batch=4, step_tokens=16)) as engine:
        yield engine
        wait_for(lambda: engine.unfinished == 0)
        assert engine.used_blocks == 0


def prompt_of(draw: random.Random, longest: int = 40) -> list[int]:
    return [draw.randrange(3, 360) for _ in range(draw.randint(1, longest))]


@pytest.mark.parametrize("seed", range(4))
def test_random_arrivals_have_the_tokens_that_each_has_alone(engine: Engine, loaded: LoadedModel, seed: int) -> None:
    draw = random.Random(seed)
    asked: list[Asked] = []
    for _ in range(20):
        greedy = draw.random() < 0.6
        sampling = {"temperature": 0.0 if greedy else draw.uniform(0.3, 2), "seed": draw.randrange(1, 1000)}
        sampling |= {"top_k": draw.choice([0, 20]), "top_p": draw.choice([1.0, 0.8]), "ignore_eos": draw.random() < 0.5}
        asked.append(Asked(engine, prompt_of(draw), max_tokens=draw.randint(1, 24), **sampling))
        time.sleep(draw.choice([0, 0, 0.01]))
    for one in asked:
        assert one.tokens == alone(loaded, one)


def test_a_cache_that_is_too_small_for_all_puts_the_youngest_off_and_changes_no_token(loaded: LoadedModel) -> None:
    draw = random.Random(5)
    with Engine("tiny", loaded, EngineOptions(max_batch=6, kv_tokens=5 * 16, step_tokens=32)) as engine:
        asked = [Asked(engine, prompt_of(draw, 20), max_tokens=40, ignore_eos=True) for _ in range(10)]
        for one in asked:
            assert one.tokens == alone(loaded, one)
        assert engine._scheduler.preemptions > 0
        assert engine.used_blocks == 0


def test_requests_join_a_batch_that_runs_and_leave_it_before_the_others(engine: Engine) -> None:
    long = Asked(engine, [5, 6, 7], max_tokens=60, ignore_eos=True)
    begun = iter(long)
    next(begun)
    short = Asked(engine, [9, 10], max_tokens=2, ignore_eos=True)
    assert short.done.finish_reason is FinishReason.length
    assert engine.unfinished == 1
    assert len(long.tokens) == 60


def test_a_short_prompt_is_not_kept_waiting_by_a_long_one(loaded: LoadedModel) -> None:
    steps: list[int] = []
    hook = loaded.model.embed_tokens.register_forward_hook(lambda module, given, made: steps.append(given[0].shape[1]))
    try:
        with Engine("tiny", loaded, EngineOptions(max_batch=2, step_tokens=4)) as engine:
            long = Asked(engine, list(range(10, 60)), max_tokens=1)
            short = Asked(engine, [9, 10, 11, 12], max_tokens=1)
            assert short.done.finish_reason is FinishReason.length
            behind = len(steps)
            assert long.done.finish_reason is FinishReason.length
    finally:
        hook.remove()
    assert behind < len(steps) - 5
    assert max(steps) <= 4


def test_aborting_frees_the_blocks_of_requests_that_run_and_that_wait(engine: Engine) -> None:
    asked = [Asked(engine, [5, 6, 7], max_tokens=61, ignore_eos=True) for _ in range(8)]
    next(iter(asked[0]))
    assert engine.used_blocks > 0
    for one in asked:
        engine.abort(one.request.id)
    assert {one.done.finish_reason for one in asked} <= {FinishReason.abort, FinishReason.length}
    assert asked[-1].done.finish_reason is FinishReason.abort
    assert engine.used_blocks == 0
    assert not engine.abort("nobody")


def test_a_full_queue_refuses_and_takes_again_once_there_is_room(loaded: LoadedModel) -> None:
    with Engine("tiny", loaded, EngineOptions(max_batch=1, max_waiting=2)) as engine:
        first = Asked(engine, [5], max_tokens=60, ignore_eos=True)
        next(iter(first))
        waiting = [Asked(engine, [5], max_tokens=1) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests wait for model tiny"):
            Asked(engine, [5], max_tokens=1)
        assert all(one.done.finish_reason for one in waiting)
        Asked(engine, [5], max_tokens=1)


def test_two_requests_of_one_id_at_once_are_refused(engine: Engine) -> None:
    first = Asked(engine, [5], name="same", max_tokens=60, ignore_eos=True)
    with pytest.raises(ValueError, match="there is a request same already"):
        Asked(engine, [5], name="same")
    assert first.done
    assert Asked(engine, [5], name="same").done


def test_a_forward_pass_that_raises_for_one_request_ends_only_that_one(
    engine: Engine, loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(module: object, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        if (given[0] == 99).any():
            raise RuntimeError("no memory for 99")

    hook = loaded.model.embed_tokens.register_forward_hook(refuse)
    try:
        good = [Asked(engine, [5, number], max_tokens=12) for number in (6, 7)]
        bad = Asked(engine, [5, 99], max_tokens=12)
        good.append(Asked(engine, [5, 8], max_tokens=12))
        assert bad.done.finish_reason is FinishReason.error
        assert bad.done.error == "RuntimeError: no memory for 99"
        got = [one.tokens for one in good]
    finally:
        hook.remove()
    assert got == [alone(loaded, one) for one in good]


def test_numbers_that_are_none_end_only_the_request_that_has_them(engine: Engine, loaded: LoadedModel) -> None:
    def poison(module: object, given: tuple[torch.Tensor], made: torch.Tensor) -> torch.Tensor:
        return torch.where((given[0] == 99)[..., None], torch.nan, made)

    hook = loaded.model.embed_tokens.register_forward_hook(poison)
    try:
        asked = [Asked(engine, [99 if number == 2 else 5, number], max_tokens=12) for number in range(3)]
        assert [one.done.finish_reason is FinishReason.error for one in asked] == [False, False, True]
    finally:
        hook.remove()
    for _ in range(5):  # whoever gets its blocks next does not notice
        again = Asked(engine, [5, 7], max_tokens=30, ignore_eos=True)
        assert again.tokens == alone(loaded, again)


def test_closing_without_abort_finishes_what_runs_and_takes_nothing_new(loaded: LoadedModel) -> None:
    engine = Engine("tiny", loaded)
    asked = [Asked(engine, [5, number], max_tokens=20, ignore_eos=True) for number in range(5)]
    engine.close(abort=False)
    assert all(len(one.tokens) == 20 for one in asked)
    with pytest.raises(EngineStopped):
        Asked(engine, [5])


def test_closing_with_abort_ends_what_runs(loaded: LoadedModel) -> None:
    engine = Engine("tiny", loaded)
    asked = Asked(engine, [5], max_tokens=63, ignore_eos=True)
    next(iter(asked))
    engine.close()
    assert asked.done.finish_reason in {FinishReason.abort, FinishReason.length}


def test_a_request_longer_than_the_context_is_a_callers_mistake(engine: Engine) -> None:
    with pytest.raises(ValueError, match=f"longer than {CONTEXT} tokens"):
        Asked(engine, [5] * CONTEXT, max_tokens=1)


def test_many_threads_may_ask_at_once(engine: Engine, loaded: LoadedModel) -> None:
    answers: dict[int, list[int]] = {}

    def ask(number: int) -> None:
        answers[number] = Asked(engine, [5, number], max_tokens=8, temperature=1.0, seed=number).tokens

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, tokens in answers.items():
        assert tokens == Asked(engine, [5, number], max_tokens=8, temperature=1.0, seed=number).tokens
    assert len({tuple(tokens) for tokens in answers.values()}) > 6


def test_a_bfloat16_model_is_served(loaded: LoadedModel) -> None:
    import copy

    half = LoadedModel(copy.deepcopy(loaded.model).to(torch.bfloat16), loaded.tokenizer)
    with Engine("half", half) as engine:
        asked = [Asked(engine, [5, number], max_tokens=20, ignore_eos=True) for number in range(3)]
        assert all(len(one.tokens) == 20 for one in asked)


def test_an_id_is_free_again_as_soon_as_its_end_is_told(engine: Engine) -> None:
    for _ in range(20):
        assert Asked(engine, [5], name="same", max_tokens=1).done
