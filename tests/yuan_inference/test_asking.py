"""What can be asked of an engine: each parameter does what its description says."""

import json
import math
import random
import re
from collections.abc import Iterator

import pytest
import torch
from tests.tiny_models import CONTEXT
from tests.yuan_inference.engines import Asked, Gate, wait_for

from yuan_inference.engine import (
    Beam,
    Engine,
    EngineOptions,
    FinishReason,
    QueueFull,
    Structure,
    StructureError,
    StructureKind,
    UnknownAdapter,
)
from yuan_inference.loaded import LoadedModel

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def engine(loaded: LoadedModel) -> Iterator[Engine]:
    with Engine("tiny", loaded, EngineOptions(max_batch=8, step_tokens=16)) as engine:
        yield engine


def scores_of(loaded: LoadedModel, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        scores = loaded.model(torch.tensor([tokens]))[0].float()
    return scores.clone()


def by_hand(loaded: LoadedModel, count: int, change: object) -> list[int]:
    tokens = list(PROMPT)
    for _ in range(count):
        logits = scores_of(loaded, tokens)[-1]
        change(logits, tokens)  # type: ignore[operator]
        tokens.append(int(logits.argmax()))
    return tokens[len(PROMPT) :]


def test_a_bias_and_forbidden_tokens_change_what_is_taken(engine: Engine, loaded: LoadedModel) -> None:
    plain = Asked(engine, PROMPT, ignore_eos=True).tokens

    def change(logits: torch.Tensor, tokens: list[int]) -> None:
        logits[plain[0]] = -math.inf
        logits[40] += 3.0

    biased = Asked(engine, PROMPT, ignore_eos=True, logit_bias=((plain[0], -math.inf), (40, 3.0)))
    assert biased.tokens == by_hand(loaded, 12, change)
    assert plain[0] not in biased.tokens
    pair = Asked(engine, PROMPT, ignore_eos=True, forbidden_pairs=((PROMPT[-1], plain[0]),))
    assert pair.tokens[0] != plain[0]


def test_penalties_are_those_of_their_definitions(engine: Engine, loaded: LoadedModel) -> None:
    def change(logits: torch.Tensor, tokens: list[int]) -> None:
        for token in set(tokens):
            logits[token] = logits[token] / 1.3 if logits[token] > 0 else logits[token] * 1.3
        for token in set(tokens[len(PROMPT) :]):
            logits[token] -= 0.5 + 0.7 * tokens[len(PROMPT) :].count(token)

    asked = Asked(
        engine,
        PROMPT,
        max_tokens=24,
        ignore_eos=True,
        repetition_penalty=1.3,
        presence_penalty=0.5,
        frequency_penalty=0.7,
    )
    assert asked.tokens == by_hand(loaded, 24, change)


def test_nothing_ends_a_text_before_min_tokens(engine: Engine, loaded: LoadedModel) -> None:
    bias = tuple((token, 100.0) for token in loaded.end_ids)
    assert Asked(engine, PROMPT, logit_bias=bias).tokens == []
    asked = Asked(engine, PROMPT, logit_bias=bias, min_tokens=5)
    assert len(asked.tokens) == 5
    assert asked.done.finish_reason is FinishReason.stop


def test_log_probabilities_are_the_models_own(engine: Engine, loaded: LoadedModel) -> None:
    asked = Asked(engine, PROMPT, max_tokens=6, ignore_eos=True, logprobs=3, temperature=2.0, seed=1, prompt_logprobs=2)
    scores = scores_of(loaded, [*PROMPT, *asked.tokens]).log_softmax(-1)
    told = [*asked.received[0].prompt_logprobs, *(one for output in asked.received for one in output.logprobs)]
    assert [one.token for one in told] == [*PROMPT[1:], *asked.tokens]
    for place, one in enumerate(told):
        assert one.logprob == pytest.approx(float(scores[place, one.token]), abs=1e-4)
        assert one.rank == int((scores[place] > scores[place, one.token]).sum()) + 1
        best = scores[place].topk(len(one.top))
        assert [token for token, _ in one.top] == best.indices.tolist()
        assert [value for _, value in one.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert [len(one.top) for one in told] == [2] * 3 + [3] * 6


def test_a_prompt_is_scored_without_drawing_and_in_pieces(engine: Engine, loaded: LoadedModel) -> None:
    prompt = [random.Random(2).randrange(3, 360) for _ in range(50)]
    for _ in range(2):  # what the prefix cache holds has no logits
        asked = Asked(engine, prompt, max_tokens=0, prompt_logprobs=0)
        assert asked.tokens == []
        assert asked.done.finish_reason is FinishReason.length
        scores = scores_of(loaded, prompt).log_softmax(-1)
        told = [one for output in asked.received for one in output.prompt_logprobs]
        expected = [float(scores[place, token]) for place, token in enumerate(prompt[1:])]
        assert [one.logprob for one in told] == pytest.approx(expected, abs=1e-4)


def test_n_continuations_are_those_of_n_seeds_and_the_prompt_is_computed_once(engine: Engine) -> None:
    prompt = [random.Random(3).randrange(3, 360) for _ in range(33)]
    several = Asked(engine, prompt, n=3, temperature=1.0, seed=5, ignore_eos=True)
    list(several)
    texts = {index: [] for index in range(3)}
    for output in several.received:
        texts[output.index] += output.token_ids
    singles = [Asked(engine, prompt, temperature=1.0, seed=5 + index, ignore_eos=True).tokens for index in range(3)]
    assert list(texts.values()) == singles
    assert [output.last for output in several.received].count(True) == 1


def test_best_of_returns_the_likeliest_of_those_drawn(engine: Engine) -> None:
    asked = Asked(engine, PROMPT, n=2, best_of=5, temperature=1.5, seed=9, ignore_eos=True, max_tokens=5)
    list(asked)
    drawn = []
    for index in range(5):
        one = Asked(engine, PROMPT, temperature=1.5, seed=9 + index, ignore_eos=True, max_tokens=5, logprobs=0)
        drawn.append(
            (sum(told.logprob for output in list(one) or one.received for told in output.logprobs), one.tokens)
        )
    drawn.sort(key=lambda one: -one[0])
    assert [list(output.token_ids) for output in asked.received] == [tokens for _, tokens in drawn[:2]]
    assert [output.score for output in asked.received] == pytest.approx([score for score, _ in drawn[:2]], abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beam_search_finds_what_searching_by_hand_finds(loaded: LoadedModel, penalty: float) -> None:
    width, length = 3, 5
    live = [(0.0, list(PROMPT))]
    for _ in range(length):
        grown = []
        for score, tokens in live:
            logits = scores_of(loaded, tokens)[-1].log_softmax(-1)
            grown += [
                (score + float(value), [*tokens, int(token)]) for value, token in zip(*logits.topk(6), strict=True)
            ]
        live = sorted(grown, key=lambda one: -one[0])[:width]
    for options in (EngineOptions(max_batch=3), EngineOptions(max_batch=4, prefix_cache=False, step_tokens=3)):
        with Engine("tiny", loaded, options) as engine:
            other = Asked(engine, [9, 9], max_tokens=20, ignore_eos=True)
            beam = Beam(width, penalty)
            asked = Asked(engine, PROMPT, n=3, beam=beam, max_tokens=length, ignore_eos=True, logprobs=0)
            list(asked)
            assert len(other.tokens) == 20
            assert engine.used_blocks == 0
        assert [list(output.token_ids) for output in asked.received] == [tokens[4:] for _, tokens in live]
        scores = [score / length**penalty for score, _ in live]
        assert [output.score for output in asked.received] == pytest.approx(scores, abs=1e-4)
        assert [output.index for output in asked.received] == [0, 1, 2]


def test_two_searches_that_need_all_places_both_end(loaded: LoadedModel) -> None:
    with Engine("tiny", loaded, EngineOptions(max_batch=4, kv_tokens=12 * 16)) as engine:
        asked = [Asked(engine, [5, number], beam=Beam(4), max_tokens=20, ignore_eos=True) for number in range(3)]
        assert all(len(one.tokens) == 20 for one in asked)
        with pytest.raises(ValueError, match="a search of width 5 does not fit; at most 4"):
            Asked(engine, [5], beam=Beam(5))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_structured_text_is_what_its_structure_says(engine: Engine, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["thee", "day"]}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    room = {"max_tokens": 50, "temperature": temperature, "seed": 3}
    asked = Asked(engine, PROMPT, structure=Structure(StructureKind.json_schema, json.dumps(schema)), **room)
    value = json.loads(asked.text)
    assert value["name"] in {"thee", "day"}
    assert 0 <= value["age"] <= 99
    assert asked.done.finish_reason is FinishReason.stop
    asked = Asked(engine, PROMPT, structure=Structure(StructureKind.regex, r"[a-c]{3}-[0-9]{2}"), **room)
    assert re.fullmatch(r"[a-c]{3}-[0-9]{2}", asked.text)
    asked = Asked(engine, PROMPT, structure=Structure(StructureKind.choice, '["yes", "no (never)"]'), **room)
    assert asked.text in {"yes", "no (never)"}


@pytest.mark.parametrize(
    ("kind", "text", "problem"),
    [
        (StructureKind.regex, "[a-", "regex: "),
        (StructureKind.json_schema, '{"type": "nothing"}', "json_schema: "),
        (StructureKind.json_schema, "{", "json_schema: "),
        (StructureKind.choice, "[]", "choice: expected an array of strings that is not empty"),
        (StructureKind.choice, "[1]", "choice: expected strings that are not empty"),
    ],
)
def test_a_structure_that_is_none_is_refused_in_one_line(
    engine: Engine, kind: StructureKind, text: str, problem: str
) -> None:
    with pytest.raises(StructureError, match=re.escape(problem)) as caught:
        Asked(engine, PROMPT, structure=Structure(kind, text))
    assert "\n" not in str(caught.value)


def test_top_p_decays_to_its_bound(engine: Engine) -> None:
    hot = {"temperature": 5.0, "seed": 4, "ignore_eos": True, "max_tokens": 10}
    decayed = Asked(engine, PROMPT, top_p=1.0, top_p_decay=1e-6, **hot).tokens
    first = decayed[0]
    greedy = Asked(engine, [*PROMPT, first], ignore_eos=True, max_tokens=9).tokens
    assert decayed[1:] == greedy
    assert Asked(engine, PROMPT, top_p=1.0, top_p_decay=0.5, top_p_bound=1.0, **hot).tokens != decayed


def test_a_lower_priority_number_goes_first_and_tenants_take_turns(loaded: LoadedModel) -> None:
    order: list[str] = []
    with Engine("tiny", loaded, EngineOptions(max_batch=1)) as engine:
        gate = Gate(engine)
        asked = [Asked(engine, [5], max_tokens=3, ignore_eos=True)]
        next(iter(asked[0]))
        for name, priority, tenant in (
            *(("many-1", 0, "many"), ("many-2", 0, "many"), ("many-3", 0, "many")),
            *(("few", 0, "few"), ("urgent", -1, "many")),
        ):
            asked.append(Asked(engine, [5], name, priority=priority, tenant=tenant, on_end=order.append, max_tokens=1))
        gate.open()
        for one in asked:
            assert one.done
    assert order == ["urgent", "many-1", "few", "many-2", "many-3"]


def test_copies_of_one_request_hold_neither_other_tenants_nor_more_urgent_requests_up(loaded: LoadedModel) -> None:
    order: list[str] = []
    with Engine("tiny", loaded, EngineOptions(max_batch=1)) as engine:
        gate = Gate(engine)
        copies = Asked(engine, [5], "copies", n=6, tenant="many", on_end=order.append, max_tokens=1)
        wait_for(lambda: len(gate.sizes) == 1)
        others = [
            Asked(engine, [5], name, priority=priority, tenant=tenant, on_end=order.append, max_tokens=1)
            for name, priority, tenant in (("later", 0, "many"), ("few", 0, "few"), ("urgent", -1, "few"))
        ]
        gate.open()
        assert all(one.done for one in (copies, *others))
    assert order == ["urgent", "few", "copies", "later"]


def test_a_request_waits_as_one_however_many_copies_it_asks_for(loaded: LoadedModel) -> None:
    with Engine("tiny", loaded, EngineOptions(max_batch=2, max_waiting=3)) as engine:
        gate = Gate(engine, steps=2)
        copies = Asked(engine, [5], n=128, max_tokens=3, ignore_eos=True)
        wait_for(lambda: gate.holds and len(gate.sizes) == 2)
        assert (engine.load.running, engine.load.waiting) == (2, 1)
        others = [Asked(engine, [5], n=64, max_tokens=3) for _ in range(2)]
        with pytest.raises(QueueFull, match="3 requests wait"):
            Asked(engine, [5])
        engine.abort(others[0].request.id)
        gate.open()
        assert others[0].done.finish_reason is FinishReason.abort
        assert len({output.index for output in copies if output.finish_reason is FinishReason.length}) == 128
        assert others[1].done
        assert engine.load.waiting == 0


def test_requests_that_begin_alike_compute_the_beginning_once(loaded: LoadedModel) -> None:
    beginning = [random.Random(8).randrange(3, 360) for _ in range(40)]
    with Engine("tiny", loaded, EngineOptions(max_batch=4)) as engine:
        first = Asked(engine, [*beginning, 5], max_tokens=4, ignore_eos=True)
        assert first.tokens
        second = Asked(engine, [*beginning, 9], max_tokens=4, ignore_eos=True)
        assert second.tokens
        assert [one.received[0].cached_tokens for one in (first, second)] == [0, 32]
        assert engine.used_blocks == 0
        # Kept beginnings give way as soon as their place is needed.
        rest = [Asked(engine, [number] * 50, max_tokens=13, ignore_eos=True) for number in range(5, 20)]
        assert all(len(one.tokens) == 13 for one in rest)


def test_an_unknown_adapter_is_refused(engine: Engine) -> None:
    with pytest.raises(UnknownAdapter, match="has no adapter other"):
        Asked(engine, PROMPT, adapter="other")
    assert CONTEXT == 64
