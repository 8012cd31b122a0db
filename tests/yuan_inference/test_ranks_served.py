"""A server whose model is shared by two ranks, as clients see it while a rank, or the server, dies."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from tests.served_models import make_cluster, publish_model, server_process
from tests.yuan_inference.engines import wait_for

from yuan_manifest import ClusterManifest
from yuan_rpc import Connection, connect
from yuan_rpc.inference.v1 import inference_pb2 as pb
from yuan_rpc.inference.v1 import inference_pb2_grpc

pytestmark = pytest.mark.slow

SERVICE = "yuan.inference.v1.InferenceService"


@dataclass
class Stack:
    """A server process with a model on two ranks."""

    process: "subprocess.Popen[str]"
    connection: Connection

    @property
    def stub(self) -> Any:
        return self.connection.stub(inference_pb2_grpc.InferenceServiceStub)

    @property
    def ranks(self) -> list[int]:
        """The ranks' processes; rank 0 was started first."""
        children = psutil.Process(self.process.pid).children()
        found = [child for child in children if "yuan_inference.ranks" in child.cmdline()]
        return [child.pid for child in sorted(found, key=lambda child: int(child.cmdline()[3]))]

    def load(self) -> pb.LoadModelResponse:
        with self.connection.errors():
            return self.stub.LoadModel(pb.LoadModelRequest(artifact="tiny@1", tensor=2), timeout=120)

    def generate(self, **params: object) -> pb.GenerateResponse:
        with self.connection.errors():
            return self.stub.Generate(asked(**params), timeout=120)

    def stream(self, **params: object) -> Any:
        return self.stub.GenerateStream(pb.GenerateStreamRequest(request=asked(**params)), timeout=120)

    def stopped_in_mid_stream(self, rank: int) -> Any:
        """Returns a stream that has begun and cannot end, since a rank is stopped."""
        for _ in range(50):
            call = self.stream()
            next(call)
            os.kill(rank, signal.SIGSTOP)
            time.sleep(1.0)  # a step that every rank had begun is over
            loads = self.stub.GetLoads(pb.GetLoadsRequest(), timeout=30).loads
            if loads[0].num_requests_running == 1:
                return call
            os.kill(rank, signal.SIGCONT)
            list(call)
        raise AssertionError("all streams had ended before the rank was stopped")

    def is_serving(self, service: str = "") -> bool:
        return self.connection.is_serving(service, timeout=30)


def asked(**params: object) -> pb.GenerateRequest:
    values = {"temperature": 0.0, "max_tokens": 40, "ignore_eos": True, **params}
    return pb.GenerateRequest(prompt="shall I", sampling_params=pb.SamplingParams(**values))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> tuple[Path, ClusterManifest]:
    folder = tmp_path_factory.mktemp("ranks")
    file, cluster = make_cluster(folder)
    publish_model(cluster, model_folder, "tiny")
    return file, cluster


@pytest.fixture
def stack(published: tuple[Path, ClusterManifest]) -> Iterator[Stack]:
    file, cluster = published
    with server_process("inference", file, cluster) as process, connect("inference", cluster.cluster) as connection:
        yield Stack(process, connection)


def test_a_stream_whose_rank_is_killed_ends_unavailable_and_the_server_serves_again(stack: Stack) -> None:
    info = stack.load().info
    assert (info.tensor, info.healthy) == (2, True)
    whole = stack.generate()
    for number in (1, 0):
        ranks = stack.ranks
        call = stack.stopped_in_mid_stream(ranks[1])
        os.kill(ranks[number], signal.SIGKILL)
        wait_for(lambda: not stack.is_serving() and not stack.is_serving(SERVICE))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert f"rank {number} (process {ranks[number]}) was killed by SIGKILL" in caught.value.details()
        # Who asks meanwhile waits, and is answered by the next ranks.
        assert stack.generate().text == whole.text
        wait_for(lambda: stack.is_serving() and stack.is_serving(SERVICE))
        assert stack.process.poll() is None
        assert not set(ranks) & set(stack.ranks)


def test_at_sigterm_what_runs_on_ranks_is_finished_and_they_end_with_the_server(stack: Stack) -> None:
    stack.load()
    whole, ranks = stack.generate(), stack.ranks
    calls = [stack.stream() for _ in range(4)]
    for call in calls:
        next(call)
    stack.process.terminate()
    for call in calls:
        assert list(call)[-1].usage.completion_tokens == 40
    assert whole.usage.completion_tokens == 40
    assert stack.process.wait(60) == 0
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in ranks))


@pytest.mark.parametrize("stopped", [False, True])
def test_ranks_end_with_a_server_that_is_killed(stack: Stack, stopped: bool) -> None:
    stack.load()
    ranks = stack.ranks
    assert len(ranks) == 2
    if stopped:
        os.kill(ranks[1], signal.SIGSTOP)
    stack.process.kill()
    stack.process.wait(60)
    wait_for(lambda: not any(is_alive(pid) for pid in ranks))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
