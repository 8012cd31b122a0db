"""Scoring over `/v1/completions`, as lm_eval's local-completions model asks and reads it."""

from typing import Any

import pytest
from tests.http_stack import HttpStack

from yuan_rpc.inference.v1 import inference_pb2 as pb

TEXT = "shall I compare thee to a day"


def ids_of(stack: HttpStack, text: str) -> list[int]:
    return stack.ask("/tokenize", {"prompt": text}).json["tokens"]


def asked(stack: HttpStack, prompt: Any, **values: Any) -> list[dict[str, Any]]:
    body = {"model": "tiny", "prompt": prompt, "temperature": 0, "logprobs": 1, "echo": True, "seed": 1234, **values}
    reply = stack.ask("/v1/completions", body)
    assert reply.status == 200, reply.body
    return sorted(reply.json["choices"], key=lambda choice: choice["index"])


def expected(stack: HttpStack, text: str) -> list[float]:
    return [one.logprob for one in stack.call("Score", pb.ScoreRequest(prompt=text)).logprobs[1:]]


@pytest.mark.parametrize("as_ids", [True, False])
def test_with_nothing_to_draw_a_text_comes_back_with_its_log_probabilities(stack: HttpStack, as_ids: bool) -> None:
    choice = asked(stack, ids_of(stack, TEXT) if as_ids else TEXT, max_tokens=0)[0]
    logprobs = choice["logprobs"]
    assert choice["text"] == "".join(logprobs["tokens"]) == TEXT
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected(stack, TEXT), abs=1e-3)
    assert choice["finish_reason"] == "length"
    places = logprobs["text_offset"]
    assert [TEXT[place:][: len(token)] for place, token in zip(places, logprobs["tokens"], strict=True)] == logprobs[
        "tokens"
    ]


def test_one_drawn_token_stands_behind_the_texts_own_even_where_a_document_would_end(stack: HttpStack) -> None:
    """The harness cuts the last token off: were it missing where `<eod>` is likeliest, a token of the text would go."""
    texts = [TEXT, "compare thee", "a", "to a day <eod>"]
    batch = [ids_of(stack, text) for text in texts]
    for ids, text, choice in zip(batch, texts, asked(stack, batch, max_tokens=1), strict=True):
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["token_logprobs"]) == len(ids) + 1
        assert choice["logprobs"]["token_logprobs"][1:-1] == pytest.approx(expected(stack, text), abs=1e-3)


def test_a_continuations_likelihood_and_greed_are_read_as_the_harness_reads_them(stack: HttpStack) -> None:
    context, whole = ids_of(stack, "shall I compare"), ids_of(stack, TEXT)
    assert whole[: len(context)] == context
    logprobs = asked(stack, whole, max_tokens=1)[0]["logprobs"]
    continuation = logprobs["token_logprobs"][len(context) : -1]
    assert sum(continuation) == pytest.approx(sum(expected(stack, TEXT)[len(context) - 1 :]), abs=1e-3)
    tops = logprobs["top_logprobs"][len(context) : -1]
    tokens = logprobs["tokens"][len(context) : -1]
    is_greedy = all(token == max(top, key=top.get) for token, top in zip(tokens, tops, strict=True))
    drawn = stack.call(
        "Generate",
        pb.GenerateRequest(
            prompt_token_ids=context, sampling_params=pb.SamplingParams(temperature=0, max_tokens=len(tokens))
        ),
    )
    assert is_greedy == (list(drawn.token_ids) == whole[len(context) :])


def test_a_streamed_echo_brings_the_prompt_and_its_log_probabilities_first(stack: HttpStack) -> None:
    body = {"prompt": TEXT, "temperature": 0, "logprobs": 1, "echo": True, "max_tokens": 3, "stream": True}
    events = stack.ask("/v1/completions", body).events
    whole = asked(stack, TEXT, max_tokens=3)[0]
    assert "".join(event["choices"][0]["text"] for event in events) == whole["text"]
    tokens = [token for event in events for token in event["choices"][0]["logprobs"]["tokens"]]
    assert tokens == whole["logprobs"]["tokens"]
    assert stack.ask("/v1/completions", {**body, "max_tokens": 0}).error["param"] == "max_tokens"
