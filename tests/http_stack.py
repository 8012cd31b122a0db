"""An inference server and a gateway on ports of their own, in this process: what tests of HTTP and of clients ask."""

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry

from tests.served_models import make_cluster, publish_model
from yuan_gateway.app import create_app
from yuan_gateway.protocol import ImpatientProtocol
from yuan_gateway.state import Gateway
from yuan_inference.engine import EngineMetrics
from yuan_inference.served import ServedModels
from yuan_inference.server import SERVICE, InferenceServicer
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_jobs.job_service import TRANSLATIONS
from yuan_manifest import ClusterManifest, load_cluster
from yuan_rpc import Connection, Mount, connect, ensure_token_file, server_of
from yuan_rpc.inference.v1 import inference_pb2 as pb
from yuan_rpc.inference.v1 import inference_pb2_grpc
from yuan_rpc.request_log import RequestLog
from yuan_rpc.tracing import Tracing


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """The server-sent events, without the last."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


@dataclass
class HttpStack:
    """A model named `tiny` behind both surfaces.

    Attributes:
        file: the cluster's manifest.
        cluster: what it says.
        models: what is served.
        gateway: its state.
        loop: of both servers.
    """

    file: Path
    cluster: ClusterManifest
    models: ServedModels
    gateway: Gateway
    loop: asyncio.AbstractEventLoop
    connection: Connection
    ends: list[Callable[[], Any]] = field(default_factory=list)
    """Called when the servers have been asked to end, before the connection to them is closed."""

    @property
    def port(self) -> int:
        assert self.cluster.cluster.services.gateway is not None
        return self.cluster.cluster.services.gateway.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, tenant: str = "") -> str:
        security = self.cluster.cluster.security
        return Path(security.tenants[tenant].token_file if tenant else security.token_file).read_text().strip()

    @property
    def engine(self) -> Any:
        return self.models.get("tiny").engine

    @property
    def idle(self) -> bool:
        """Whether no engine holds anything."""
        return all(engine.unfinished == 0 and engine.used_blocks == 0 for engine in self.models.engines)

    def call(self, method: str, request: Any, **options: Any) -> Any:
        with self.connection.errors():
            return getattr(self.connection.stub(inference_pb2_grpc.InferenceServiceStub), method)(request, **options)

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        token: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Makes one request; `token=None` brings none."""
        own = {} if token is None else {"authorization": f"Bearer {token or self.token()}"}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            sent = {**own, "content-type": "application/json", **(headers or {})}
            connection.request(method or ("GET" if body is None else "POST"), path, data, sent)
            answer = connection.getresponse()
            return Reply(answer.status, answer.read(), {key.lower(): value for key, value in answer.getheaders()})
        finally:
            connection.close()


@contextmanager
def http_stack(folder: Path, model_folder: Path, *, extra: str = "", drain_seconds: float = 5) -> Iterator[HttpStack]:
    """Runs both servers until the block ends.

    Args:
        folder: for the home.
        model_folder: what is served as `tiny`.
        extra: further lines of `cluster:`, each indented by two spaces.
        drain_seconds: of the inference server.
    """
    file, _ = make_cluster(folder)
    file.write_text(file.read_text().replace("topology:", f"{extra}\ntopology:" if extra else "topology:"))
    cluster = load_cluster(file)
    for tenant in cluster.cluster.security.tenants.values():
        ensure_token_file(Path(tenant.token_file))
    publish_model(cluster, model_folder, "tiny")
    store = ArtifactStore.open(Home.of(cluster.cluster))
    started, stop = threading.Event(), asyncio.Event()
    made: list[HttpStack] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        metrics = CollectorRegistry()
        models = ServedModels("cpu", EngineMetrics(metrics))
        section = cluster.cluster.observability
        tracing = Tracing("inference", section.traces)
        servicer = InferenceServicer(models, store, log=RequestLog("inference", section), tracing=tracing)
        mount = Mount(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, SERVICE)
        server = server_of(
            "inference",
            cluster.cluster,
            [mount],
            translations=TRANSLATIONS,
            drain_seconds=drain_seconds,
            tracing=tracing,
        )
        server.registry.register(metrics)
        gateway = Gateway.of(cluster)
        port = cluster.cluster.services.gateway.port  # type: ignore[union-attr]
        web = uvicorn.Server(
            uvicorn.Config(
                create_app(gateway),
                host="127.0.0.1",
                port=port,
                http=ImpatientProtocol,
                lifespan="off",
                log_config=None,
            )
        )
        web.capture_signals = _nothing  # type: ignore[method-assign]
        async with server:
            watching = asyncio.create_task(servicer.watch(server))
            serving = asyncio.create_task(web.serve())
            while not web.started:
                await asyncio.sleep(0.01)
            connection = connect("inference", cluster.cluster)
            made.append(HttpStack(file, cluster, models, gateway, asyncio.get_running_loop(), connection))
            started.set()
            await stop.wait()
            web.should_exit = web.force_exit = True
            await serving
            await gateway.close()
        watching.cancel()
        await models.close()
        tracing.close()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
            started.set()
            raise

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(120)
    if failed:
        raise failed[0]
    stack = made[0]
    try:
        stack.call("LoadModel", pb.LoadModelRequest(artifact="tiny"))
        yield stack
    finally:
        stack.loop.call_soon_threadsafe(stop.set)
        for end in stack.ends:
            end()
        stack.connection.close()
        thread.join(120)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


__all__ = ["HttpStack", "Reply", "http_stack"]
