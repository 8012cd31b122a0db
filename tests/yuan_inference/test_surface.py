"""What the service promises beyond text: scores, loads, limits by token, traces, request lines, fuzzed requests."""

import json
import math
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http_stack import HttpStack, http_stack
from tests.yuan_inference.engines import Gate, wait_for

from yuan_corpus import Tokenizer
from yuan_inference.limits import TenantLimits
from yuan_inference.loaded import LoadedModel
from yuan_inference.spelling import colon_newline_pairs, spelled
from yuan_manifest.schema import Role
from yuan_rpc import Caller, Connection, Limits, ResourceExhausted, RpcFailed, Security
from yuan_rpc.inference.v1 import inference_pb2 as pb
from yuan_rpc.inference.v1 import inference_pb2_grpc

TENANTS = """
  security:
    tenants:
      alice: {token_file: HOME/alice, requests_per_minute: 2}
      bob: {token_file: HOME/bob, tokens_per_minute: 30}
      carol: {token_file: HOME/carol, concurrent_requests: 1, role: operator}
      late: {token_file: HOME/late, expires: "2020-01-01"}
  observability: {traces: "http://127.0.0.1:PORT", log_prompts: true}
"""


class Receiver:
    """A real OTLP receiver."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

        self.spans: list[tuple[str, Any]] = []

        class Service(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(inner, request: Any, context: Any) -> Any:  # noqa: N802, N805
                for resource in request.resource_spans:
                    name = next(
                        one.value.string_value for one in resource.resource.attributes if one.key == "service.name"
                    )
                    for scope in resource.scope_spans:
                        self.spans.extend((name, span) for span in scope.spans)
                return trace_service_pb2.ExportTraceServiceResponse()

        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def close(self) -> None:
        self._server.stop(0)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    pytest.importorskip("opentelemetry.proto", reason="OpenTelemetry is in the tracing extra")
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, receiver: Receiver) -> Iterator[HttpStack]:
    folder = tmp_path_factory.mktemp("stack")
    extra = TENANTS.replace("HOME", str(folder / "home")).replace("PORT", str(receiver.port)).rstrip()
    with http_stack(folder, model_folder, extra=extra) as made:
        yield made


def as_tenant(stack: HttpStack, tenant: str, method: str, request: Any) -> Any:
    section = stack.cluster.cluster.services.inference
    assert section is not None
    file = Path(stack.cluster.cluster.security.tenants[tenant].token_file)
    with Connection("inference", section.host, section.port, Security(file)) as connection, connection.errors():
        return getattr(connection.stub(inference_pb2_grpc.InferenceServiceStub), method)(request)


def asked(prompt: str = "shall I", **params: Any) -> pb.GenerateRequest:
    values = {"temperature": 0.0, "max_tokens": 4, **params}
    return pb.GenerateRequest(prompt=prompt, sampling_params=pb.SamplingParams(**values))


def test_a_score_is_the_sum_of_its_tokens_and_they_spell_the_text(stack: HttpStack) -> None:
    text = "shall I compare thee 你好"
    score = stack.call("Score", pb.ScoreRequest(prompt=text, logprobs=2))
    assert not score.logprobs[0].HasField("logprob")
    assert all(one.logprob < 0 for one in score.logprobs[1:])
    assert score.sum == pytest.approx(sum(one.logprob for one in score.logprobs[1:]))
    assert b"".join(one.token for one in score.logprobs).decode().strip() == text
    assert all(len(one.top_logprobs) == 2 for one in score.logprobs[1:])
    ids = [one.token_id for one in score.logprobs]
    again = stack.call("Score", pb.ScoreRequest(prompt_token_ids=ids))
    assert again.sum == pytest.approx(score.sum)
    with pytest.raises(RpcFailed, match="prompt: empty"):
        stack.call("Score", pb.ScoreRequest())
    assert stack.idle


def test_what_is_drawn_has_the_log_probabilities_that_its_text_is_scored_with(stack: HttpStack) -> None:
    answer = stack.call("Generate", asked(max_tokens=8, logprobs=3, prompt_logprobs=0, ignore_eos=True))
    ids = [*(one.token_id for one in answer.prompt_logprobs), *answer.token_ids]
    scored = stack.call("Score", pb.ScoreRequest(prompt_token_ids=ids)).logprobs
    drawn = answer.outputs[0].logprobs
    assert [one.logprob for one in drawn] == pytest.approx([one.logprob for one in scored[-8:]], abs=1e-3)
    assert all(one.rank == 1 and one.top_logprobs[0].token_id == one.token_id for one in drawn)
    parts = list(
        stack.connection.stub(inference_pb2_grpc.InferenceServiceStub).GenerateStream(
            pb.GenerateStreamRequest(request=asked(max_tokens=8, logprobs=3, prompt_logprobs=0, ignore_eos=True))
        )
    )
    streamed = [one.logprob for part in parts for one in part.logprobs]
    assert streamed == pytest.approx([one.logprob for one in drawn], abs=1e-3)
    assert len(parts[0].prompt_logprobs) == len(answer.prompt_logprobs)


def test_several_continuations_come_with_their_numbers(stack: HttpStack) -> None:
    answer = stack.call("Generate", asked(n=3, temperature=1.0, seed=5))
    assert [one.index for one in answer.outputs] == [0, 1, 2]
    assert answer.text == answer.outputs[0].text
    assert answer.usage.completion_tokens == sum(len(one.token_ids) for one in answer.outputs)
    texts = {0: "", 1: "", 2: ""}
    reasons = []
    stub = stack.connection.stub(inference_pb2_grpc.InferenceServiceStub)
    for part in stub.GenerateStream(pb.GenerateStreamRequest(request=asked(n=3, temperature=1.0, seed=5))):
        texts[part.index] += part.text
        reasons += [part.finish_reason] if part.finish_reason else []
    assert list(texts.values()) == [one.text for one in answer.outputs]
    assert len(reasons) == 3


def test_an_impossible_grammar_is_refused_by_its_field(stack: HttpStack) -> None:
    with pytest.raises(RpcFailed, match=r"regex parse error: look-around.* is not supported"):
        stack.call("Generate", asked(structured_outputs={"regex": "(?=a)b"}))
    with pytest.raises(RpcFailed) as caught:
        stack.call("Generate", asked(structured_outputs={"regex": "(["}))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(caught.value.violations) == ["sampling_params.structured_outputs"]
    reply = stack.ask("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "(["}})
    assert (reply.status, reply.error["param"]) == (400, "structured_outputs")
    unending = json.dumps(
        {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}}, "$ref": "#/$defs/n"}
    )
    for structure, why in (({"regex": ".*" * 200}, "too many expressions"), ({"json": unending}, "Too many items")):
        with pytest.raises(RpcFailed, match=f"the structure cannot be followed: .*{why}") as caught:
            stack.call("Generate", asked(structured_outputs=structure, max_tokens=60))
        assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(RpcFailed, match="json_schema: false is matched by nothing"):
        stack.call("Generate", asked(structured_outputs={"json": "false"}))
    ends = {"choice": {"choices": ["a"]}}, list(range(stack.engine.loaded.tokenizer.vocab_size))
    with pytest.raises(RpcFailed, match="min_tokens forbids that") as caught:
        stack.call("Generate", asked(structured_outputs=ends[0], min_tokens=2, stop_token_ids=ends[1]))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(caught.value.violations) == ["sampling_params.min_tokens"]
    choice = stack.call("Generate", asked(structured_outputs={"choice": {"choices": ["day", "thee"]}}, max_tokens=20))
    assert choice.text in ("day", "thee")


def test_the_server_says_what_it_serves_and_how_busy_that_is(stack: HttpStack) -> None:
    info = stack.call("GetServerInfo", pb.GetServerInfoRequest())
    assert [model.model for model in info.models] == ["tiny"]
    assert not info.draining
    load = stack.call("GetLoads", pb.GetLoadsRequest()).loads[0]
    assert (load.model, load.num_requests_running, load.used_blocks) == ("tiny", 0, 0)
    assert load.total_blocks > 0
    page = stack.call("GetMetrics", pb.GetMetricsRequest()).text
    assert 'yuan_num_requests_running{model_name="tiny"}' in page
    over_http = stack.ask("/metrics", token=None).body.decode()
    assert 'yuan_kv_cache_usage_perc{model_name="tiny"} 0.0' in over_http
    assert "yuan_gateway_requests_total" in over_http
    assert "yuan_gateway_inference_up 1" in over_http


def test_a_model_that_is_unloaded_is_served_no_more(stack: HttpStack) -> None:
    stack.call("LoadModel", pb.LoadModelRequest(artifact="tiny", name="second"))
    assert stack.call("UnloadModel", pb.UnloadModelRequest(model="second")).artifact == "model/tiny@1"
    with pytest.raises(RpcFailed, match="no model is served as second"):
        stack.call("UnloadModel", pb.UnloadModelRequest(model="second"))
    assert stack.models.names == ["tiny"]


def test_reflection_is_enough_to_call_the_service(stack: HttpStack) -> None:
    """As grpcurl does: nothing generated is used."""
    section = stack.cluster.cluster.services.inference
    assert section is not None
    metadata = [("authorization", f"Bearer {stack.token()}")]
    with grpc.insecure_channel(f"{section.host}:{section.port}") as bare:
        channel = grpc.intercept_channel(bare, _Brings(metadata))
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        service = pool.FindServiceByName("yuan.inference.v1.InferenceService")
        assert {"Generate", "GenerateStream", "Score", "Tokenize", "Detokenize", "Abort", "GetModelInfo"} <= set(
            service.methods_by_name
        )
        method = service.methods_by_name["Generate"]
        request = GetMessageClass(method.input_type)(prompt="shall I")
        request.sampling_params.temperature = 0
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        assert call(request).text == stack.call("Generate", asked(max_tokens=16)).text


class _Brings(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), request)

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=self._metadata), requests)


def test_a_tenant_has_so_many_requests_a_minute(stack: HttpStack) -> None:
    for _ in range(2):
        as_tenant(stack, "alice", "Generate", asked())
    with pytest.raises(RpcFailed, match="alice has used its 2 requests a minute") as caught:
        as_tenant(stack, "alice", "Generate", asked())
    assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 30
    reply = stack.ask("/v1/completions", {"prompt": "a"}, token=stack.token("alice"))
    assert (reply.status, reply.error["type"]) == (429, "rate_limit_error")
    assert 0 < int(reply.headers["retry-after"]) <= 30
    assert stack.ask("/v1/models", token=stack.token("alice")).status == 200


def test_a_tenant_has_so_many_tokens_a_minute_and_pays_a_debt(stack: HttpStack) -> None:
    as_tenant(stack, "bob", "Generate", asked(max_tokens=40, ignore_eos=True))
    with pytest.raises(RpcFailed, match="bob has used its 30 tokens a minute"):
        as_tenant(stack, "bob", "Generate", asked())


def test_buckets_fill_steadily_and_requests_at_once_are_counted() -> None:
    now = [0.0]
    limits = TenantLimits(lambda: now[0])
    caller = Caller("a", Role.viewer, Limits(requests_per_minute=60, tokens_per_minute=600, concurrent_requests=2))
    with limits.admit(caller) as count, limits.admit(caller):
        with pytest.raises(ResourceExhausted, match="2 requests running"), limits.admit(caller):
            pass
        count(1200)
    with pytest.raises(ResourceExhausted, match="600 tokens") as caught, limits.admit(caller):
        pass
    assert caught.value.retry_after == pytest.approx(60.1)
    now[0] += 60.2
    with limits.admit(caller):
        pass
    with limits.admit(Caller()):  # the owner has no limits
        pass


def test_a_token_that_has_expired_or_a_role_that_does_not_do_is_refused(stack: HttpStack) -> None:
    with pytest.raises(RpcFailed, match="the token of late has expired") as caught:
        as_tenant(stack, "late", "Generate", asked())
    assert caught.value.code == grpc.StatusCode.UNAUTHENTICATED
    assert (
        stack.ask("/v1/models", token=stack.token("late")).error["message"].startswith("the token of late has expired")
    )
    with pytest.raises(RpcFailed, match="LoadModel is for the role operator and above; alice has viewer") as caught:
        as_tenant(stack, "alice", "LoadModel", pb.LoadModelRequest(artifact="tiny"))
    assert caught.value.code == grpc.StatusCode.PERMISSION_DENIED
    assert as_tenant(stack, "carol", "LoadModel", pb.LoadModelRequest(artifact="tiny")).info.model == "tiny"


def test_requests_of_one_tenant_are_not_another_ones_to_abort(stack: HttpStack) -> None:
    stepper = stack.engine._stepper
    before = stepper.runner
    gate = Gate(stack.engine, 2)
    try:
        call = stack.connection.stub(inference_pb2_grpc.InferenceServiceStub).GenerateStream(
            pb.GenerateStreamRequest(request=pb.GenerateRequest(prompt="a", request_id="mine"))
        )
        next(call)
        assert not as_tenant(stack, "carol", "Abort", pb.AbortRequest(request_ids=["mine"])).aborted
        assert list(stack.call("Abort", pb.AbortRequest(request_ids=["mine"])).aborted) == ["mine"]
    finally:
        gate.open()
        stepper.runner = before
    wait_for(lambda: stack.idle)


def test_a_request_is_one_trace_across_gateway_server_and_engine(stack: HttpStack, receiver: Receiver) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    assert stack.ask("/v1/completions", {"prompt": "shall I", "max_tokens": 3}, headers=headers).status == 200

    def spans() -> dict[str, Any]:
        return {f"{name} {span.name}": span for name, span in receiver.spans if span.trace_id.hex() == trace}

    wait_for(lambda: len(spans()) == 3)
    found = spans()
    web = found["yuan-gateway POST /v1/completions"]
    call = found["yuan-inference yuan.inference.v1.InferenceService/Generate"]
    engine = found["yuan-inference engine"]
    assert web.parent_span_id.hex() == "00f067aa0ba902b7"
    assert (call.parent_span_id, engine.parent_span_id) == (web.span_id, call.span_id)
    assert [event.name for event in engine.events] == ["first_token"]
    attributes = {one.key: one.value for one in engine.attributes}
    assert attributes["gen_ai.usage.output_tokens"].int_value == 3


def test_a_request_is_one_json_line_with_its_text_only_where_that_is_asked_for(
    stack: HttpStack, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    def lines() -> list[dict[str, Any]]:
        told = [record.getMessage() for record in caplog.records if record.name == logger.name]
        return [line for line in map(json.loads, told) if line["service"] == "inference"]

    logger = logging.getLogger("yuan_rpc.requests")
    logger.addHandler(caplog.handler)
    try:
        stack.call("Generate", asked("compare thee"))
        stack.call("Generate", pb.GenerateRequest(prompt="compare day", no_log=True))
        with pytest.raises(RpcFailed):
            stack.call("Generate", asked(""))
        wait_for(lambda: len(lines()) >= 2)
    finally:
        logger.removeHandler(caplog.handler)
    shown, hidden = lines()[:2]
    assert (shown["prompt"], shown["status"], shown["finish_reason"]) == ("compare thee", "OK", "length")
    assert (shown["model"], shown["completion_tokens"]) == ("tiny", 4)
    assert "prompt" not in hidden
    assert "text" not in hidden


def test_tokens_spell_their_bytes_and_colons_know_new_lines(loaded: LoadedModel) -> None:
    tokenizer: Tokenizer = loaded.tokenizer
    ids = tokenizer.encode("thee: 你\n")
    assert b"".join(spelled(tokenizer, token) for token in ids).decode().strip(" ") == "thee: 你\n"
    pairs = colon_newline_pairs(tokenizer)
    colon = next(token for token in ids if spelled(tokenizer, token).endswith(b":"))
    assert any(first == colon for first, _ in pairs)
    assert all(spelled(tokenizer, second).lstrip(b" ").startswith((b"\n", b"<n>")) for _, second in pairs)


NUMBERS = st.floats(width=32) | st.integers(-(2**31), 2**31 - 1) | st.sampled_from([math.nan, math.inf, 0, 1, -1, 1e38])
INT32 = st.integers(-(2**31), 2**31 - 1)


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_is_asked_is_answered_with_a_status_and_nothing_stays_held(
    stack: HttpStack, data: st.DataObject
) -> None:
    params = pb.SamplingParams()
    for field in pb.SamplingParams.DESCRIPTOR.fields:
        if field.name in ("max_tokens", "n", "best_of", "beam_width") or not data.draw(st.booleans()):
            continue
        if field.message_type is not None:
            continue
        if field.type == field.TYPE_FLOAT:
            setattr(params, field.name, float(data.draw(NUMBERS)))
        elif field.type == field.TYPE_BOOL:
            setattr(params, field.name, data.draw(st.booleans()))
        elif field.type == field.TYPE_UINT64:
            setattr(params, field.name, data.draw(st.integers(0, 2**64 - 1)))
        elif field.is_repeated:
            items = st.text(max_size=5) if field.type == field.TYPE_STRING else INT32
            getattr(params, field.name).extend(data.draw(st.lists(items, max_size=3)))
        else:
            setattr(params, field.name, data.draw(INT32))
    params.max_tokens = data.draw(st.integers(-1, 6))
    request = pb.GenerateRequest(
        prompt=data.draw(st.text(max_size=20)),
        prompt_token_ids=data.draw(st.lists(st.integers(-2, 400), max_size=3)),
        request_id=data.draw(st.text(max_size=5)),
        model=data.draw(st.sampled_from(["", "tiny", "x", "tiny:x"])),
        sampling_params=params,
    )
    failure = None
    try:
        assert stack.call("Generate", request).finish_reason
    except RpcFailed as error:
        failure = error
    if failure is not None:
        assert failure.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), str(failure)
        assert "\n" not in str(failure)
    wait_for(lambda: stack.idle)


def test_bytes_that_are_no_message_are_refused_and_the_server_goes_on(stack: HttpStack) -> None:
    section = stack.cluster.cluster.services.inference
    assert section is not None
    metadata = [("authorization", f"Bearer {stack.token()}")]
    with grpc.insecure_channel(f"{section.host}:{section.port}") as channel:
        for method in ("Generate", "Score", "Tokenize", "LoadModel"):
            call = channel.unary_unary(f"/yuan.inference.v1.InferenceService/{method}")
            for body in (b"\xff" * 50, b"\x12\x02\xff\xfe", b"\x0a\xff\xff\xff\xff\x0f"):
                with pytest.raises(grpc.RpcError) as caught:
                    call(body, metadata=metadata, timeout=20)
                assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert stack.call("Generate", asked()).text is not None
