"""Gateway and inference server as processes of their own: killed, ended in mid-stream, fuzzed from outside."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.http_stack import http_stack
from tests.served_models import make_cluster, publish_model, server_process
from tests.tiny_models import make_model, make_tokenizer, write_text
from tests.yuan_inference.engines import wait_for

from yuan_corpus import Tokenizer
from yuan_manifest import ClusterManifest
from yuan_rpc import RpcFailed, connect, health_of
from yuan_rpc.inference.v1 import inference_pb2 as pb
from yuan_rpc.inference.v1 import inference_pb2_grpc

pytestmark = pytest.mark.slow

CONTEXT = 32768
TOKENS = 1500
ENDLESS = 30000


class Surface:
    """A home, its two processes, and requests to them."""

    def __init__(self, folder: Path) -> None:
        tokenizer = folder / "tokenizer"
        make_tokenizer(tokenizer, write_text(folder / "text.txt"))
        make_model(folder / "model", Tokenizer.load(tokenizer).eod_id, context=CONTEXT)
        shutil.copytree(tokenizer, folder / "model" / "tokenizer")
        self.file, self.cluster = make_cluster(folder)
        publish_model(self.cluster, folder / "model", "tiny")
        self.token = Path(self.cluster.cluster.security.token_file).read_text().strip()

    @property
    def port(self) -> int:
        assert self.cluster.cluster.services.gateway is not None
        return self.cluster.cluster.services.gateway.port

    def grpc(self, method: str, request: Any) -> Any:
        with connect("inference", self.cluster.cluster) as connection, connection.errors():
            return getattr(connection.stub(inference_pb2_grpc.InferenceServiceStub), method)(request)

    def load(self) -> None:
        self.grpc("LoadModel", pb.LoadModelRequest(artifact="tiny"))

    def idle(self) -> bool:
        loads = self.grpc("GetLoads", pb.GetLoadsRequest()).loads
        return all(load.num_requests_running == load.num_requests_waiting == load.used_blocks == 0 for load in loads)

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {self.token}"})
            return connection.getresponse().status
        finally:
            connection.close()

    def ask(self, **body: Any) -> "http.client.HTTPResponse":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "shall I", **body}), headers)
        return connection.getresponse()

    def long_stream(self, tokens: int = ENDLESS) -> "http.client.HTTPResponse":
        """Returns a stream of which the first event has been read."""
        answer = self.ask(stream=True, max_tokens=tokens, ignore_eos=True)
        assert answer.readline().startswith(b"data: ")
        return answer


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Surface:
    return Surface(tmp_path_factory.mktemp("surface"))


@contextmanager
def gateway_process(file: Path, cluster: ClusterManifest) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-m", "yuan_gateway", "server", "-f", str(file)])

    def is_up() -> bool:
        assert process.poll() is None
        try:
            with health_of("gateway", cluster.cluster) as server:
                return server.is_serving()
        except RpcFailed:
            return False

    try:
        wait_for(is_up)
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_inference_server_ends_streams_with_an_error_and_the_gateway_serves_on(surface: Surface) -> None:
    with gateway_process(surface.file, surface.cluster):
        with server_process("inference", surface.file, surface.cluster) as inference:
            surface.load()
            answer = surface.long_stream()
            os.kill(inference.pid, signal.SIGKILL)
            inference.wait()
            events = answer.read().decode().strip().split("\n\n")
            assert events[-1] == "data: [DONE]"
            error = json.loads(events[-2].removeprefix("data: "))["error"]
            assert error["type"] == "server_error"
        assert (surface.get("/health"), surface.get("/ready")) == (200, 503)
        refused = surface.ask(max_tokens=2)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "start the stack" in json.loads(refused.read())["error"]["message"]
        with server_process("inference", surface.file, surface.cluster):
            surface.load()
            wait_for(lambda: surface.get("/ready") == 200)
            assert surface.ask(max_tokens=2).status == 200


def test_a_killed_gateway_frees_what_its_requests_held(surface: Surface) -> None:
    with server_process("inference", surface.file, surface.cluster):
        surface.load()
        with gateway_process(surface.file, surface.cluster) as gateway:
            answer = surface.long_stream()
            assert not surface.idle()
            os.kill(gateway.pid, signal.SIGKILL)
            gateway.wait()
            wait_for(surface.idle)
            answer.close()
        with gateway_process(surface.file, surface.cluster):
            assert surface.ask(max_tokens=2).status == 200


@pytest.mark.parametrize("who", ["gateway", "inference"])
def test_what_runs_when_one_is_asked_to_end_is_finished(surface: Surface, who: str) -> None:
    with (
        server_process("inference", surface.file, surface.cluster) as inference,
        gateway_process(surface.file, surface.cluster) as gateway,
    ):
        surface.load()
        answer = surface.long_stream(TOKENS)
        process = gateway if who == "gateway" else inference
        process.send_signal(signal.SIGTERM)
        events = answer.read().decode().strip().split("\n\n")
        assert events[-1] == "data: [DONE]"
        last = json.loads(events[-2].removeprefix("data: "))
        assert "choices" in last, last
        assert last["choices"][0]["finish_reason"] == "length"
        assert process.wait(60) == 0


def test_the_gateways_schema_holds_whatever_a_fuzzer_sends(
    request: pytest.FixtureRequest, tmp_path: Path, model_folder: Path
) -> None:
    """Schemathesis, in an environment of its own, which is kept in pytest's cache."""
    folder = request.config.cache.mkdir("schemathesis")  # type: ignore[union-attr]
    tool = folder / "bin" / "schemathesis"
    if not tool.exists():
        venv.create(folder, with_pip=True, clear=True)
        made = subprocess.run(
            [folder / "bin" / "pip", "install", "-q", "schemathesis==4.32.5"],
            check=False,
            capture_output=True,
            text=True,
        )
        if made.returncode:
            pytest.skip(f"pip cannot install schemathesis: {made.stderr.strip().splitlines()[-1]}")
    extra = "  observability: {log_requests: false}"
    with http_stack(tmp_path, model_folder, extra=extra) as stack:
        # What is not offered (501), and not ready (503), is an error of the server's by definition.
        excluded = ["--exclude-path", "/v1/embeddings", "--exclude-path", "/ready"]
        checks = "not_a_server_error,content_type_conformance,status_code_conformance,response_schema_conformance"
        options = ["--max-examples", "10", "--checks", checks, "--suppress-health-check", "all", "--no-color"]
        options += ["--generation-deterministic", "--request-timeout", "60"]
        header = ["--header", f"Authorization: Bearer {stack.token()}"]
        done = subprocess.run(
            [tool, "run", f"{stack.url}/openapi.json", *header, *options, *excluded],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
        wait_for(lambda: stack.idle)
        assert stack.ask("/v1/completions", {"prompt": "a", "max_tokens": 1}).status == 200
