"""`PUT /yuan`: the original's API, field by field."""

from typing import Any

import pytest
from tests.http_stack import HttpStack
from tests.tiny_models import CONTEXT
from tests.yuan_inference.engines import Watched

from yuan_gateway.yuan_api import BadInput, answer_in, ask_of
from yuan_rpc.inference.v1 import inference_pb2 as pb


def put(stack: HttpStack, body: Any, **options: Any) -> Any:
    return stack.ask("/yuan", body, method="PUT", **options)


def question(text: str = "shall I", **fields: Any) -> dict[str, Any]:
    return {"ques_list": [{"id": "000", "ques": text}], **fields}


def test_questions_are_answered_with_their_ids_in_order(stack: HttpStack) -> None:
    body = {
        "ques_list": [{"id": "a", "ques": "shall I"}, {"ques": "compare thee"}],
        "tokens_to_generate": 8,
        "top_k": 1,
    }
    reply = put(stack, body)
    assert reply.status == 200
    params = pb.SamplingParams(temperature=1.0, top_k=1, max_tokens=8)
    expected = [
        answer_in(stack.call("Generate", pb.GenerateRequest(prompt=text, sampling_params=params)).text)
        for text in ("shall I", "compare thee")
    ]
    assert reply.json == {
        "flag": True,
        "errCode": "0",
        "errMessage": "success",
        "exceptionMsg": "",
        "resData": {"output": [{"id": "a", "ans": expected[0]}, {"id": "0", "ans": expected[1]}]},
    }


def test_an_answer_ends_at_the_end_of_the_document_and_begins_behind_the_separator() -> None:
    assert answer_in(" yes<eod>no") == "yes"
    assert answer_in("again?<sep>yes") == "yes"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "ques_list argument required"),
        ({"ques_list": "a"}, "ques_list is not a list"),
        ({"ques_list": []}, "ques_list has 0 questions; expected 1 to 128"),
        ({"ques_list": [{"ques": "a"}] * 129}, "ques_list has 129 questions; expected 1 to 128"),
        ({"ques_list": [{"id": "1"}]}, r"ques_list[0]: expected an object with ques"),
        ({"ques_list": ["a"]}, r"ques_list[0]: expected an object with ques"),
        (question(""), "ques_list[0]: ques is empty"),
        (question(5), "ques_list[0]: ques and id must be strings"),  # type: ignore[arg-type]
        (question("\ud800"), "ques_list[0]: half of a surrogate pair is no text"),
        (question(tokens_to_generate=0), "tokens_to_generate must be an integer and greater than 0"),
        (question(tokens_to_generate=1.5), "tokens_to_generate must be an integer and greater than 0"),
        (question(tokens_to_generate=True), "tokens_to_generate must be an integer and greater than 0"),
        (question(temperature=0), "temperature must be a number above 0 and at most 100"),
        (question(temperature=101), "temperature must be a number above 0 and at most 100"),
        (question(temperature="1"), "temperature must be a number above 0 and at most 100"),
        (question(top_k=1001), "top_k must be an integer from 0 to 1000"),
        (question(top_k=1.0), "top_k must be an integer from 0 to 1000"),
        (question(top_p=1.1), "top_p must be a number from 0 to 1"),
        (question(top_p_decay=0.5), "top_p_decay cannot be set without top_p"),
        (question(top_p=0.5, top_p_decay=2.0), "top_p_decay must be a number from 0 to 1"),
        (question(top_p=0.5, top_p_bound=0.6), "top_p_bound must be a number above 0 and at most top_p"),
        (question(random_seed=-1), "random_seed must be an integer and at least 0"),
        (question(beam_width=0), "beam_width must be an integer from 1 to 64"),
        ({**question(), "ques_list": [{"ques": "a"}] * 2, "beam_width": 2}, "a beam search takes one question only"),
        (question(length_penalty="x"), "length_penalty must be a number"),
        (question(stop_token="x"), "stop_token must be an integer"),
        (question(stop_token=10**6), "stop_token: expected ids"),
        (question(add_BOS=1), "add_BOS must be a boolean value"),
        (question(stop_on_eol="no"), "stop_on_eol must be a boolean value"),
        (question(stop_on_double_eol=1), "stop_on_double_eol must be a boolean value"),
        (question(prevent_newline_after_colon=1), "prevent_newline_after_colon must be a boolean value"),
        (question(logprobs=1), "logprobs must be a boolean value"),
        (question(no_log=1), "no_log must be a boolean value"),
        (question(tokens_to_generate=CONTEXT), f"more than the model's sequence length of {CONTEXT}"),
        (question("day " * 200), f"more than the model's sequence length of {CONTEXT}"),
        (b"{", "the body is no JSON"),
        (b'{"ques_list": NaN}', "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        (b"[]", "the body is no JSON object"),
    ],
    ids=range(40),
)
def test_bad_input_is_told_as_the_original_tells_it(stack: HttpStack, body: Any, reason: str) -> None:
    reply = put(stack, body)
    assert reply.status == 200
    assert reply.json.keys() >= {"flag", "errCode", "errMessage", "exceptionMsg", "resData"}
    assert reason in reply.json.pop("exceptionMsg")
    assert reply.json["flag"] is False
    assert (reply.json["errCode"], reply.json["resData"]) == (1, {})


def test_every_field_of_the_original_is_taken(stack: HttpStack) -> None:
    body = question(
        tokens_to_generate=4,
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        top_p_decay=0.9,
        top_p_bound=0.1,
        random_seed=7,
        stop_token=9,
        add_BOS=True,
        stop_on_eol=True,
        stop_on_double_eol=True,
        prevent_newline_after_colon=True,
        logprobs=True,
        no_log=True,
    )
    first, second = put(stack, body), put(stack, body)
    assert first.json["flag"], first.json
    assert first.json == second.json


def test_fields_mean_what_the_grpc_service_calls_otherwise() -> None:
    ask = ask_of(question(top_p=0.5, top_p_decay=0.9, top_p_bound=0.25, random_seed=3, stop_token=4, add_BOS=True))
    assert (ask.begin, ask.params.seed, list(ask.params.stop_token_ids)) == ("<eod>", 3, [4])
    assert (ask.params.top_p, ask.params.top_p_bound) == (0.5, 0.25)
    beam = ask_of(question(beam_width=3, length_penalty=0.5)).params
    assert (beam.beam_width, beam.length_penalty) == (3, 0.5)
    assert list(ask_of(question(stop_on_eol=True)).params.stop) == ["\n", "<n>"]
    assert list(ask_of(question(stop_on_double_eol=True)).params.stop) == ["\n\n", "<n><n>"]
    with pytest.raises(BadInput):
        ask_of({})


def test_a_failure_of_the_service_behind_has_error_code_2(stack: HttpStack) -> None:
    def refuse(runner: object, chunks: object) -> Any:
        raise RuntimeError("broken")

    before = stack.engine._stepper.runner
    Watched(stack.engine, refuse)
    try:
        reply = put(stack, question(tokens_to_generate=2))
    finally:
        stack.engine._stepper.runner = before
    assert (reply.status, reply.json["errCode"], reply.json["flag"]) == (200, 2, False)
    assert "broken" in reply.json["exceptionMsg"]
    assert put(stack, question(tokens_to_generate=2)).json["flag"]


def test_without_a_token_it_is_refused_in_its_own_form(stack: HttpStack) -> None:
    reply = put(stack, question(), token=None)
    assert (reply.status, reply.json["flag"], reply.json["errCode"]) == (401, False, 1)
