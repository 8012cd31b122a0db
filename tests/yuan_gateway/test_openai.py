"""The OpenAI API as its own Python client, curl and a script see it."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.http_stack import HttpStack
from tests.tiny_models import CONTEXT
from tests.yuan_inference.engines import wait_for

from yuan_gateway.openai.conversation import document_of
from yuan_gateway.openai.logprobs import CompletionLogprobs
from yuan_gateway.openai.schemas import ChatMessage
from yuan_rpc import read_audit
from yuan_rpc.inference.v1 import inference_pb2 as pb

openai = pytest.importorskip("openai", reason="the openai client is in the dev extra")

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def client(stack: HttpStack) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.token(), max_retries=0) as made:
        yield made


def over_grpc(stack: HttpStack, prompt: str, **params: Any) -> Any:
    values = {"temperature": 0.0, "max_tokens": 12, **params}
    return stack.call("Generate", pb.GenerateRequest(prompt=prompt, sampling_params=pb.SamplingParams(**values)))


def test_a_completion_is_what_grpc_answers(stack: HttpStack, client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt="shall I", **GREEDY)
    expected = over_grpc(stack, "shall I")
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == "length"
    assert (answer.model, answer.object) == ("tiny", "text_completion")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 12)


def test_a_streamed_completion_is_the_whole_one_in_pieces_and_ends_with_its_usage(client: Any) -> None:
    whole = client.completions.create(model="tiny", prompt="shall I", **GREEDY).choices[0].text
    chunks = list(
        client.completions.create(
            model="tiny", prompt="shall I", stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole
    assert chunks[-1].usage.completion_tokens == 12
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"


def test_prompts_may_be_several_texts_or_token_ids(stack: HttpStack, client: Any) -> None:
    texts = ["shall I", "compare thee"]
    ids = [stack.ask("/tokenize", {"prompt": text}).json["tokens"] for text in texts]
    expected = [over_grpc(stack, text).text for text in texts]
    for prompt in (texts, ids):
        answer = client.completions.create(model="tiny", prompt=prompt, **GREEDY)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1]
    assert client.completions.create(model="tiny", prompt=ids[1], **GREEDY).choices[0].text == expected[1]
    parts: dict[int, str] = {0: "", 1: ""}
    for chunk in client.completions.create(model="tiny", prompt=texts, stream=True, **GREEDY):
        parts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(parts.values()) == expected


def test_echo_puts_the_prompt_before_the_continuation(client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt="shall I", echo=True, **GREEDY)
    assert answer.choices[0].text.startswith("shall I")


def test_a_chat_is_answered_whole_and_streamed(stack: HttpStack, client: Any) -> None:
    messages = [{"role": "user", "content": "shall I"}]
    expected = over_grpc(stack, "shall I<sep>", stop=["<sep>"]).text
    whole = client.chat.completions.create(model="tiny", messages=messages, **GREEDY)
    assert (whole.choices[0].message.role, whole.choices[0].message.content) == ("assistant", expected)
    chunks = list(client.chat.completions.create(model="tiny", messages=messages, stream=True, **GREEDY))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "length"
    without_limit = client.chat.completions.create(model="tiny", messages=messages, temperature=0)
    assert without_limit.usage.total_tokens <= CONTEXT


def test_a_conversation_is_written_as_training_data_is() -> None:
    turns = [
        ChatMessage(role="system", content="Be kind."),
        ChatMessage(role="user", content="One?"),
        ChatMessage(role="assistant", content="1"),
        ChatMessage(role="user", content="Two?"),
    ]
    assert document_of(turns) == "Be kind.\nOne?<sep>1\nTwo?<sep>"


def test_tools_are_refused_and_that_is_said(client: Any) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    with pytest.raises(openai.BadRequestError, match="tools: the models served here call no tools") as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "a"}], tools=[tool])
    assert (caught.value.param, caught.value.code) == ("tools", "tools_not_supported")
    picture = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(openai.BadRequestError, match=r"messages\.0\.content\.0\.type: Input should be 'text'"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": picture}])
    with pytest.raises(openai.BadRequestError, match="prompt: List should have at least 1 item"):
        client.completions.create(model="tiny", prompt=[])


def test_models_are_listed_and_one_is_described(client: Any) -> None:
    found = client.models.list().data
    assert [model.id for model in found] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "yuan-stack"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_an_unknown_model_is_not_found_by_its_name(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model is served as nobody") as caught:
        client.completions.create(model="nobody", prompt="a")
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_embeddings_are_not_offered_and_that_is_said(client: Any) -> None:
    with pytest.raises(openai.InternalServerError, match="embeddings are not offered") as caught:
        client.embeddings.create(model="tiny", input="a")
    assert caught.value.status_code == 501


def test_a_wrong_token_is_refused(stack: HttpStack) -> None:
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="wrong", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError, match="does not know the token"),
    ):
        other.models.list()


def test_who_was_refused_stands_in_the_audit_log(stack: HttpStack) -> None:
    folder = Path(stack.cluster.cluster.security.audit.folder)
    before = len(list(read_audit(folder)))
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="wrong-and-distinctive", max_retries=0) as other,
        pytest.raises(openai.AuthenticationError),
    ):
        other.models.list()
    # The line is written after the answer.
    wait_for(lambda: len(list(read_audit(folder))) > before)
    row = list(read_audit(folder))[-1]
    assert (row["subject"], row["service"], row["method"], row["outcome"]) == (
        *("unknown", "gateway", "GET /v1/models", "401"),
    )
    assert "distinctive" not in str(row)


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": 1e39}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 10**6}, "n"),
        ({"n": 10**30}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"presence_penalty": 5}, "presence_penalty"),
        ({"logit_bias": {"no": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 1e10}}, "logit_bias"),
        ({"stop": ["x"] * 1000}, "stop"),
        ({"stop": ""}, "stop"),
        ({"seed": -1}, "seed"),
        ({"logprobs": 1000}, "logprobs"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [5] * CONTEXT}, "prompt"),
        ({"prompt": "q" * 10**6}, "prompt"),
        ({"prompt": ["a"] * 1000}, "prompt"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"use_beam_search": True, "best_of": 99}, "best_of"),
        ({"use_beam_search": True, "n": 30}, "n"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"echo": True, "logprobs": -1}, "logprobs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs.choice"),
        ({"response_format": _schema({"type": "no"})}, "response_format"),
        ({"response_format": _schema({"enum": ["x" * 70000]})}, "response_format.json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"suffix": "x"}, "suffix"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(stack: HttpStack, values: dict[str, Any], param: str) -> None:
    reply = stack.ask("/v1/completions", {"model": "tiny", "prompt": "a", **values})
    assert (reply.status, reply.error["type"], reply.error["param"]) == (400, "invalid_request_error", param)
    assert "\n" not in reply.error["message"]
    assert "sampling_params" not in reply.error["message"]
    assert stack.idle


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"logprobs": True, "top_logprobs": 1000}, "top_logprobs"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"stop": ["x"] * 64}, "stop"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "q" * 10**6}]}, "messages"),
        ({"response_format": _schema({"type": "no"})}, "response_format"),
        ({"structured_outputs": {"regex": "("}, "stream": True}, "structured_outputs"),
    ],
)
def test_a_wrong_value_of_a_chat_is_refused_by_its_name(stack: HttpStack, values: dict[str, Any], param: str) -> None:
    messages = [{"role": "user", "content": "a"}]
    reply = stack.ask("/v1/chat/completions", {"model": "tiny", "messages": messages, **values})
    assert (reply.status, reply.error["type"], reply.error["param"]) == (400, "invalid_request_error", param)
    assert reply.error["message"].startswith(f"{param}: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
    ],
    ids=range(13),
)
def test_a_body_that_is_no_request_is_refused(stack: HttpStack, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
        reply = stack.ask(path, body)
        assert (reply.status, reply.error["type"]) == (400, "invalid_request_error"), reply.body


def test_token_ids_and_text_go_both_ways(stack: HttpStack) -> None:
    reply = stack.ask("/tokenize", {"prompt": "compare<sep>你好", "return_token_strs": True}).json
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    assert reply["max_model_len"] == CONTEXT
    assert "<sep>" in reply["token_strs"]
    assert stack.ask("/detokenize", {"tokens": reply["tokens"]}).json == {"prompt": "compare<sep>你好"}
    assert stack.ask("/detokenize", {"tokens": [10**6]}).error["param"] == "tokens"


def test_a_client_without_a_tokenizer_learns_which_token_ends_a_document(stack: HttpStack) -> None:
    info = stack.ask("/tokenizer_info").json
    assert (info["eos_token"], info["bos_token"], info["model_max_length"]) == ("<eod>", None, CONTEXT)
    body = {"prompt": info["eos_token"], "add_special_tokens": False}
    assert stack.ask("/tokenize", body).json["tokens"] == [info["eos_token_id"]]
    assert stack.ask("/tokenizer_info?model=other").status == 404
    assert stack.ask("/tokenizer_info", token=None).status == 401


def test_curl_streams_a_completion(stack: HttpStack) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    headers = ["-H", f"Authorization: Bearer {stack.token()}", "-H", "Content-Type: application/json"]
    body = '{"prompt": "shall I", "stream": true, "max_tokens": 4}'
    done = subprocess.run(
        ["curl", "-sS", "-N", f"{stack.url}/v1/completions", *headers, "-d", body],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith('data: {"id":"cmpl-')
    assert done.stdout.endswith("data: [DONE]\n\n")


def test_a_client_that_leaves_a_stream_frees_its_blocks(stack: HttpStack, client: Any) -> None:
    answer = client.completions.create(
        model="tiny", prompt="shall I", max_tokens=50, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(answer))
    answer.close()
    wait_for(lambda: stack.idle)


def test_a_prompts_probabilities_come_with_the_first_piece_of_each_choice(stack: HttpStack) -> None:
    body = {"prompt": "shall I compare", "max_tokens": 3, "prompt_logprobs": 1, "n": 2, "ignore_eos": True, "seed": 1}
    whole = stack.ask("/v1/completions", body).json["choices"]
    choices = [event["choices"][0] for event in stack.ask("/v1/completions", {**body, "stream": True}).events]
    for index in range(2):
        pieces = [choice for choice in choices if choice["index"] == index]
        assert pieces[0]["prompt_logprobs"] == whole[index]["prompt_logprobs"]
        assert not any("prompt_logprobs" in piece for piece in pieces[1:])
    assert whole[0]["prompt_logprobs"][0] is None


def test_tokens_are_named_and_placed_as_openai_does_it() -> None:
    logprobs = CompletionLogprobs()
    pieces = [b" shall", b" I", b"\xe4", b"\xbd", b"\xa0", b"x", b"\x95", b"y"]
    found = [pb.TokenLogprob(token_id=5, token=pieces[0])]
    for token in pieces[1:]:
        one = pb.TokenLogprob(token_id=6, token=token, logprob=-1.5)
        one.top_logprobs.add(token_id=7, logprob=-0.5, token=b"likelier")
        found.append(one)
    logprobs.add(found, first_of="shall I你x\ufffdy")
    taken = logprobs.take()
    assert taken["tokens"] == ["shall", " I", r"bytes:\xe4", r"bytes:\xbd", r"bytes:\xa0", "x", r"bytes:\x95", "y"]
    assert taken["text_offset"] == [0, 5, 7, 7, 7, 8, 9, 10]
    assert taken["token_logprobs"] == [None, *[-1.5] * 7]
    assert taken["top_logprobs"][:2] == [None, {"likelier": -0.5, " I": -1.5}]
