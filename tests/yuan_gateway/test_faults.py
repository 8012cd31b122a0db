"""Abuse and faults over HTTP: each is answered with a status, none stops the gateway, nothing stays held."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.http_stack import HttpStack, http_stack
from tests.yuan_inference.engines import Gate, Watched, wait_for

from yuan_gateway import guard, protocol
from yuan_rpc import RpcFailed, StatusCode
from yuan_rpc.inference.v1 import inference_pb2 as pb
from yuan_rpc.inference.v1 import inference_pb2_grpc
from yuan_rpc.open_files import allow_many_connections

LONG: dict[str, Any] = {"prompt": "shall I", "max_tokens": 60, "ignore_eos": True}


@pytest.fixture
def slow(stack: HttpStack) -> Iterator[None]:
    """Every step takes a moment."""

    def step(runner: Any, chunks: Any) -> Any:
        time.sleep(0.03)
        return runner.step(chunks)

    before = stack.engine._stepper.runner
    Watched(stack.engine, step)
    yield
    stack.engine._stepper.runner = before
    wait_for(lambda: stack.idle)


def opened(
    stack: HttpStack, body: dict[str, Any], path: str = "/v1/completions", method: str = "POST"
) -> socket.socket:
    """Sends a request and returns its connection, of which nothing has been read."""
    data = json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.token()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", stack.port), timeout=60)
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_a_body_of_50_mb_is_refused_without_being_kept(stack: HttpStack, path: str) -> None:
    reply = stack.ask(path, b'{"prompt": "' + b"a" * 50_000_000 + b'"}')
    assert (reply.status, reply.error["message"]) == (413, "the body is larger than 16 MiB")
    assert stack.ask("/health").status == 200


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large(stack: HttpStack) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 2**20

    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
    try:
        connection.request("PUT", "/yuan", chunks(), {"authorization": f"Bearer {stack.token()}"}, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was answered before all was sent
    else:
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["errCode"]) == (413, 1)
    finally:
        connection.close()
    assert stack.ask("/health").status == 200


def test_a_body_that_does_not_come_is_not_waited_for(stack: HttpStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection:
        head = (
            f"POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.token()}\r\nContent-Length: 50\r\n\r\n"
        )
        connection.sendall(head.encode() + b"{")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_says_nothing_whole_is_closed(
    stack: HttpStack, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEADER_SECONDS", 0.2)
    with (
        socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection,
        suppress(BrokenPipeError, ConnectionResetError),  # a machine that stalls just here sends to one that is closed
    ):
        connection.sendall(sent)
        assert connection.recv(4096) == b""


@pytest.mark.parametrize("sent", [b"\x00\xff\x16\x03\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G" * 100_000])
def test_what_is_no_http_is_refused(stack: HttpStack, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=60) as connection:
        try:
            connection.sendall(sent + b"\r\n\r\n")
            answer = connection.recv(4096)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert stack.ask("/health").status == 200


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/completions", "/yuan"])
def test_a_client_that_goes_frees_its_blocks(stack: HttpStack, path: str, stream: bool) -> None:
    body: dict[str, Any] = {**LONG, "stream": stream}
    if path == "/yuan":
        body = {"ques_list": [{"ques": "shall I"}], "tokens_to_generate": 60}
    connection = opened(stack, body, path, "PUT" if path == "/yuan" else "POST")
    wait_for(lambda: not stack.idle)
    connection.close()
    wait_for(lambda: stack.idle)


@pytest.mark.usefixtures("slow")
def test_a_reader_that_takes_nothing_holds_up_nobody(stack: HttpStack) -> None:
    with opened(stack, {**LONG, "stream": True, "logprobs": 100}):
        wait_for(lambda: not stack.idle)
        assert stack.ask("/v1/completions", {"prompt": "thee", "max_tokens": 2}).status == 200
        wait_for(lambda: stack.idle)  # its own text waits for it in the connection, no block does


def test_a_full_queue_is_429_with_the_time_to_come_again(stack: HttpStack) -> None:
    stack.call("LoadModel", pb.LoadModelRequest(artifact="tiny", name="narrow", max_batch=1, max_waiting=1))
    engine = stack.models.get("narrow").engine
    gate = Gate(engine)
    body = {**LONG, "model": "narrow", "stream": True}
    first = opened(stack, body)
    wait_for(lambda: engine.load.running == 1)
    second = opened(stack, body)
    wait_for(lambda: engine.unfinished == 2)
    try:
        reply = stack.ask("/v1/completions", body)
    finally:
        first.close()
        second.close()
        gate.open()
    assert (reply.status, reply.error["type"], reply.headers["retry-after"]) == (429, "rate_limit_error", "1")
    wait_for(lambda: stack.idle)
    stack.call("UnloadModel", pb.UnloadModelRequest(model="narrow"))


def test_while_it_drains_new_requests_are_told_so_and_health_too(stack: HttpStack) -> None:
    stack.gateway.draining = True
    try:
        assert stack.ask("/health").status == stack.ask("/ready").status == 503
        reply = stack.ask("/v1/completions", {"prompt": "a"})
        assert (reply.status, reply.error["code"], reply.headers["connection"]) == (503, "shutting_down", "close")
        assert stack.ask("/yuan", {}, method="PUT").json["exceptionMsg"] == "the gateway is shutting down"
        assert stack.ask("/metrics").status == 200
    finally:
        stack.gateway.draining = False


def test_a_stream_that_the_gateways_end_cuts_says_so(stack: HttpStack) -> None:
    before = stack.engine._stepper.runner
    gate = Gate(stack.engine, 3)
    connection = opened(stack, {**LONG, "stream": True})
    try:
        received = connection.recv(4096)
        stack.loop.call_soon_threadsafe(stack.gateway.cut)
        while b"[DONE]" not in received:
            part = connection.recv(4096)
            assert part, received
            received += part
    finally:
        stack.gateway.backend._is_cut = False
        connection.close()
        gate.open()
        stack.engine._stepper.runner = before
        wait_for(lambda: stack.idle)
    assert b"the gateway was stopped before the answer was whole" in received


def test_metrics_need_a_token_from_elsewhere_only_and_no_path_that_a_caller_made_up_is_in_them(
    stack: HttpStack,
) -> None:
    stack.ask("/made-up-by-a-caller")
    page = stack.ask("/metrics", token=None)
    assert page.status == 200
    assert b"made-up" not in page.body
    assert b'yuan_gateway_requests_total{route="unknown",status="404"}' in page.body


def test_an_unexpected_failure_is_an_incident_and_not_a_stop(
    stack: HttpStack, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*given: object, **named: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(stack.gateway.backend, "call", broken)
    reply = stack.ask("/tokenize", {"prompt": "a"})
    assert (reply.status, reply.error["code"]) == (500, "internal")
    assert "secret" not in reply.error["message"]
    assert reply.error["message"].rpartition(" ")[2] in caplog.text


def test_what_still_runs_when_the_servers_time_is_over_reads_why(tmp_path: Path, model_folder: Path) -> None:
    found: list[RpcFailed] = []

    def read(stack: HttpStack, begun: threading.Event) -> None:
        try:
            with stack.connection.errors():
                stub = stack.connection.stub(inference_pb2_grpc.InferenceServiceStub)
                params = pb.SamplingParams(max_tokens=60, ignore_eos=True)
                request = pb.GenerateRequest(prompt="shall I", sampling_params=params)
                for _ in stub.GenerateStream(pb.GenerateStreamRequest(request=request)):
                    begun.set()
        except RpcFailed as error:
            found.append(error)

    with http_stack(tmp_path, model_folder, drain_seconds=2.2) as stack:

        def step(runner: Any, chunks: Any) -> Any:
            time.sleep(0.5)
            return runner.step(chunks)

        Watched(stack.engine, step)
        begun = threading.Event()
        thread = threading.Thread(target=read, args=(stack, begun))
        thread.start()
        assert begun.wait(60)
        stack.ends.append(thread.join)
    assert [(error.code, str(error)) for error in found] == [
        (StatusCode.UNAVAILABLE, "the server was stopped before the answer was whole")
    ]


@pytest.mark.slow
def test_a_thousand_streams_are_answered_or_refused_and_nothing_stays_held(stack: HttpStack) -> None:
    if allow_many_connections() < 4096:  # both sides are in this process
        pytest.skip("fewer open files may be had than a thousand streams take")
    data = json.dumps({"prompt": "shall I", "max_tokens": 4, "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.token()}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    ).encode()

    async def one() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port)
        writer.write(head + data)
        answer = await reader.read()
        writer.close()
        return answer.partition(b" ")[2][:3].decode()

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(1000)))

    statuses = asyncio.run(all_of_them())
    assert set(statuses) <= {"200", "429"}
    assert statuses.count("200") > 200
    wait_for(lambda: stack.idle)
    assert stack.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
