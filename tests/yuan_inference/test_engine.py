"""The engine: whatever shares the batch, a request's continuation is the one that it has alone."""

import copy
import random
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import torch
from tests.tiny_models import CONTEXT
from tests.yuan_inference.engines import Asked, Gate, Watched, alone, wait_for
from torch import Tensor

from yuan_inference.engine import (
    Engine,
    EngineOptions,
    EngineStopped,
    Failure,
    FinishReason,
    Output,
    QueueFull,
    Request,
    Sampling,
)
from yuan_inference.loaded import LoadedModel
from yuan_model import Chunk, PagedRunner, Runner


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
    gate = Gate(engine)
    long = Asked(engine, [5, 6, 7], max_tokens=60, ignore_eos=True)
    next(iter(long))
    short = Asked(engine, [9, 10], max_tokens=2, ignore_eos=True)
    gate.open()
    assert short.done.finish_reason is FinishReason.length
    assert len(long.tokens) == 60
    assert gate.sizes[0] == gate.sizes[-1] == 1
    assert gate.sizes.count(2) == 2


def test_a_short_prompt_is_not_kept_waiting_by_a_long_one(loaded: LoadedModel) -> None:
    steps: list[list[Chunk]] = []

    def count(runner: Runner, chunks: Sequence[Chunk]) -> Tensor:
        steps.append(list(chunks))
        return runner.step(chunks)

    with Engine("tiny", loaded, EngineOptions(max_batch=2, step_tokens=4)) as engine:
        Watched(engine, count)
        gate = Gate(engine)
        long = Asked(engine, list(range(10, 60)), max_tokens=1)
        short = Asked(engine, [9, 10, 11, 12], max_tokens=1)
        gate.open()
        assert short.done.finish_reason is FinishReason.length
        assert long.done.finish_reason is FinishReason.length
    began = [number for number, chunks in enumerate(steps) if any(chunk.tokens[0] == 9 for chunk in chunks)]
    assert began[-1] - began[0] < 3
    assert began[-1] < len(steps) - 5
    assert max(sum(chunk.stop - chunk.start for chunk in chunks) for chunks in steps) <= 4


def test_aborting_frees_the_blocks_of_requests_that_run_and_that_wait(engine: Engine) -> None:
    gate = Gate(engine, steps=3)
    asked = [Asked(engine, [5, 6, 7], max_tokens=61, ignore_eos=True) for _ in range(8)]
    next(iter(asked[0]))
    assert engine.used_blocks > 0
    for one in asked:
        engine.abort(one.request.id)
    gate.open()
    assert {one.done.finish_reason for one in asked} == {FinishReason.abort}
    assert len(gate.sizes) <= 4
    assert engine.used_blocks == 0
    assert not engine.abort("nobody")


def test_a_full_queue_refuses_and_takes_again_once_there_is_room(loaded: LoadedModel) -> None:
    with Engine("tiny", loaded, EngineOptions(max_batch=1, max_waiting=2)) as engine:
        gate = Gate(engine)
        first = Asked(engine, [5], max_tokens=60, ignore_eos=True)
        next(iter(first))
        waiting = [Asked(engine, [5], max_tokens=1) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests wait for model tiny"):
            Asked(engine, [5], max_tokens=1)
        gate.open()
        assert all(one.done.finish_reason for one in waiting)
        Asked(engine, [5], max_tokens=1)


def test_two_requests_of_one_id_at_once_are_refused(engine: Engine) -> None:
    gate = Gate(engine)
    first = Asked(engine, [5], name="same", max_tokens=60, ignore_eos=True)
    with pytest.raises(ValueError, match="there is a request same already"):
        Asked(engine, [5], name="same")
    gate.open()
    assert first.done
    assert Asked(engine, [5], name="same").done


def test_a_forward_pass_that_raises_for_one_request_ends_only_that_one(
    engine: Engine, loaded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(runner: Runner, chunks: Sequence[Chunk]) -> Tensor:
        if any(99 in chunk.tokens for chunk in chunks):
            raise RuntimeError("no answer to 99")
        return runner.step(chunks)

    Watched(engine, refuse)
    good = [Asked(engine, [5, number], max_tokens=12) for number in (6, 7)]
    bad = Asked(engine, [5, 99], max_tokens=12, n=2)
    good.append(Asked(engine, [5, 8], max_tokens=12))
    assert bad.done.finish_reason is FinishReason.error
    assert bad.done.error == "RuntimeError: no answer to 99"
    assert bad.done.failure is Failure.request
    assert [one.tokens for one in good] == [alone(loaded, one) for one in good]


def test_where_memory_is_short_fewer_run_at_once_and_all_are_answered(engine: Engine, loaded: LoadedModel) -> None:
    most: list[int] = []

    def refuse(runner: Runner, chunks: Sequence[Chunk]) -> Tensor:
        if len(chunks) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
        most.append(len(chunks))
        return runner.step(chunks)

    Watched(engine, refuse)
    asked = [Asked(engine, [5, number], max_tokens=12, ignore_eos=True) for number in range(8)]
    assert [one.tokens for one in asked] == [alone(loaded, one) for one in asked]
    assert max(most) == 2


def test_a_request_for_which_alone_there_is_no_memory_fails_and_says_so(engine: Engine) -> None:
    def refuse(runner: Runner, chunks: Sequence[Chunk]) -> Tensor:
        if any(99 in chunk.tokens for chunk in chunks):
            raise MemoryError
        return runner.step(chunks)

    Watched(engine, refuse)
    asked = [Asked(engine, [99 if number == 2 else 5, number], max_tokens=4, ignore_eos=True) for number in range(4)]
    assert [one.done.failure for one in asked] == [None, None, Failure.memory, None]


def test_numbers_that_are_none_end_only_the_request_that_has_them(loaded: LoadedModel) -> None:
    poisoned = copy.deepcopy(loaded.model)
    with torch.no_grad():
        poisoned.embed_tokens.weight[99] = torch.nan
        poisoned.embed_tokens.weight[99, 0] = 0  # what is drawn from the others must not see it either
    with Engine("poisoned", LoadedModel(poisoned, loaded.tokenizer), EngineOptions(max_batch=4)) as engine:
        _poison_and_check(engine, loaded)


def _poison_and_check(engine: Engine, loaded: LoadedModel) -> None:
    # The output projection is the embedding: the logit of 99 itself is forbidden, or it would be NaN for all.
    def hide(inner: Runner, chunks: Sequence[Chunk]) -> Tensor:
        logits = inner.step(chunks)
        logits[:, 99] = -torch.inf
        return logits

    Watched(engine, hide)
    asked = [Asked(engine, [99 if number == 2 else 5, number], max_tokens=12) for number in range(3)]
    assert [one.done.finish_reason is FinishReason.error for one in asked] == [False, False, True]
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
    gate = Gate(engine)
    asked = Asked(engine, [5], max_tokens=63, ignore_eos=True)
    next(iter(asked))
    engine.close(timeout=0)
    gate.open()
    assert asked.done.finish_reason is FinishReason.abort


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
    half = LoadedModel(copy.deepcopy(loaded.model).to(torch.bfloat16), loaded.tokenizer)
    with Engine("half", half) as engine:
        asked = [Asked(engine, [5, number], max_tokens=20, ignore_eos=True) for number in range(3)]
        assert all(len(one.tokens) == 20 for one in asked)


def test_an_id_is_free_again_as_soon_as_its_end_is_told(engine: Engine) -> None:
    for _ in range(20):
        assert Asked(engine, [5], name="same", max_tokens=1).done


def test_blocks_may_have_another_size(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yuan_inference.engine.options._block_tokens", lambda loaded: 8)
    monkeypatch.setattr(
        "yuan_inference.engine.engine.make_runner", lambda loaded, size: PagedRunner(loaded.model, size)
    )
    options = EngineOptions(max_batch=3, kv_tokens=80)  # they have to give way
    with Engine("pages", loaded, options) as engine:
        assert engine.load.block_tokens == 8
        asked = [Asked(engine, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14 + number], max_tokens=30) for number in range(6)]
        for one in asked:
            assert one.tokens == alone(loaded, one)
        again = Asked(engine, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14], max_tokens=4)
        assert again.tokens == alone(loaded, again)
        assert again.received[0].cached_tokens == 8
        assert engine.used_blocks == 0


def test_whoever_listens_is_woken_once_a_step_for_all_requests(loaded: LoadedModel) -> None:
    with Engine("woken", loaded, EngineOptions(max_batch=8)) as engine:
        gate = Gate(engine, steps=0)
        delivered: list[Output] = []
        seen: list[int] = []
        ended = threading.Event()

        def wake() -> None:
            seen.append(len(delivered))
            if sum(output.last for output in delivered) == 4:
                ended.set()

        for number in range(4):
            request = Request(f"r{number}", (5, 6, 7 + number), Sampling(max_tokens=5, ignore_eos=True))
            engine.submit(request, delivered.append, wake)
        gate.open()
        assert ended.wait(60)
    assert len(delivered) == 20
    assert len(seen) <= len(gate.sizes)
    assert seen == sorted(set(seen))
