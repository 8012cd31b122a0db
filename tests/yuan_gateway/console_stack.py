"""A console to look at: a gateway and a job server in this process, over a home with jobs that have really run."""

import asyncio
import http.client
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn
from tests.http_stack import _nothing
from tests.served_models import make_cluster

from yuan_events import Checkpoint, Message, Metrics, NullSink, Progress, WorkFailed
from yuan_gateway.app import create_app
from yuan_gateway.protocol import ImpatientProtocol
from yuan_gateway.state import Gateway
from yuan_jobs import Work, WorkContext, WorkResult
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.client import JobClient
from yuan_jobs.execution import execute
from yuan_jobs.home import Home
from yuan_jobs.job_service import ENDLESS, TRANSLATIONS, job_service
from yuan_jobs.models import JobRow
from yuan_jobs.requests import request_of
from yuan_jobs.serving import ServerContext
from yuan_manifest import ClusterManifest, Kind, job_of_plain, load_cluster, resolve_topology
from yuan_rpc import Mount, ensure_token_file, server_of

HOSTILE = "<script>alert('x')</script>"
TENANTS = """
  security:
    tenants:
      alice: {token_file: HOME/alice}
      oscar: {token_file: HOME/oscar, role: operator}
      expired: {token_file: HOME/expired, expires: "2020-01-01"}
"""


@dataclass(frozen=True)
class Page:
    """What a browser got."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def problem(self) -> str:
        """The line that says what went wrong."""
        found = re.search(r'<p class="problem"[^>]*>(.*?)</p>', self.text, re.DOTALL)
        assert found is not None, self.text[:2000]
        return found.group(1)


@dataclass
class Browser:
    """As much of a browser as pages without scripts need: it keeps cookies."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict[str, str])

    def get(self, path: str, **headers: str) -> Page:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, fields: dict[str, str], *, proof: str | None = None, **headers: str) -> Page:
        """Sends a form with the proof of the page that was seen last; `proof` stands in its place."""
        own = {"proof": self.proof() if proof is None else proof}
        body = urlencode({**own, **fields}).encode()
        return self._ask("POST", path, body, {"content-type": "application/x-www-form-urlencoded", **headers})

    def proof(self) -> str:
        page = self.get("/console/jobs")
        page = self.get("/console/login") if page.status == 303 else page
        found = re.search(r'name="proof" value="([0-9a-f]{64})"', page.text)
        assert found is not None, page.text[:2000]
        return found.group(1)

    def login(self, token: str) -> Page:
        return self.post("/console/login", {"token": token})

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Page:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"accept": "text/html", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            for value in answer.msg.get_all("set-cookie") or ():
                for name, morsel in SimpleCookie(value).items():
                    self.cookies[name] = morsel.value
                    if morsel["max-age"] == "0":
                        del self.cookies[name]
            return Page(
                answer.status, answer.read().decode(), {key.lower(): value for key, value in answer.getheaders()}
            )
        finally:
            connection.close()


@dataclass
class ConsoleStack:
    """Both servers. `cluster`: what its manifest says. `file`: where that is."""

    file: Path
    cluster: ClusterManifest
    gateway: Gateway | None = None

    @property
    def port(self) -> int:
        assert self.cluster.cluster.services.gateway is not None
        return self.cluster.cluster.services.gateway.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/console"

    def token(self, tenant: str = "") -> str:
        security = self.cluster.cluster.security
        return Path(security.tenants[tenant].token_file if tenant else security.token_file).read_text().strip()

    def browser(self, tenant: str | None = "") -> Browser:
        """Returns a browser in which somebody is logged in; None: nobody."""
        made = Browser(self.port)
        if tenant is not None:
            assert made.login(self.token(tenant)).status == 303
        return made

    def run(self, name: str, work: Callable[[WorkContext[Any]], WorkResult], **tree: object) -> str:
        """Does a job here and now; returns its id, also of one that fails."""
        job = job_of_plain(
            {
                "version": 1,
                "kind": "tokenizer",
                "name": name,
                "inputs": {"text": ["*.txt"]},
                "tokenizer": {"vocab_size": 300},
                "outputs": {"tokenizer": name},
                **tree,
            }
        )
        try:
            topology = resolve_topology(job, self.cluster)
            execute(job, topology, self.cluster.cluster, Work(run=work), NullSink(), force=True)
        except WorkFailed:
            pass
        with self.client() as jobs:
            return next(one.id for one in jobs.jobs(include_children=True) if one.name == name)

    def submit(self, name: str, **tree: object) -> str:
        """Puts a job on a queue that nobody works on; returns its id."""
        job = job_of_plain(
            {
                "version": 1,
                "kind": "tokenizer",
                "name": name,
                "inputs": {"text": ["*.txt"]},
                "tokenizer": {"vocab_size": 300},
                "outputs": {"tokenizer": name},
                **tree,
            }
        )
        with self.client() as jobs:
            return jobs.submit(request_of(job, (), self.cluster), force=True)[0].id

    def rename(self, job_id: str, name: str) -> None:
        """Gives a job a name that no manifest may have, as if somebody had written it into the registry."""
        store = ArtifactStore.open(Home.of(self.cluster.cluster))
        with store.registry.database.writing() as session:
            row = session.get(JobRow, job_id)
            assert row is not None
            row.name = name
        store.registry.close()

    def client(self) -> JobClient:
        return JobClient(self.cluster.cluster)


def pretraining(**changes: object) -> dict[str, object]:
    """Returns what makes a job of `run` a training."""
    sizes = {"vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2}
    return {
        "kind": "pretrain",
        "tokenizer": None,
        "model": {**sizes, "intermediate_size": 8, "max_position_embeddings": 16},
        "inputs": {"tokenizer": "small", "datasets": [{"name": "small"}]},
        "data": {"sequence_length": 8},
        "train": {"steps": 2, "global_batch_size": 4, "micro_batch_size": 1},
        "optimizer": {"lr": 0.1},
        **changes,
    }


def well(context: WorkContext[Any]) -> WorkResult:
    """Work that goes well and tells of it."""
    context.sink.emit(Message("begun"))
    context.sink.emit(Message(HOSTILE, level="warning"))
    for step in (1, 2, 3):
        context.sink.emit(Metrics(step, {"loss": 4.0 / step, "learning_rate": 0.1 * step, "tokens_per_second": 10.0}))
    context.sink.emit(Checkpoint(3, "somewhere"))
    context.sink.emit(Progress("steps", 3, 3, "steps"))
    (context.output / "text.txt").write_text("text")
    return WorkResult(summary={"documents": 7})


def badly(context: WorkContext[Any]) -> WorkResult:
    """Work that fails, with a reason that would like to be a script."""
    raise WorkFailed(f"it went wrong: {HOSTILE}")


@contextmanager
def console_stack(
    folder: Path, *, extra: str = TENANTS, mounts: Callable[[ServerContext], Sequence[Mount]] = lambda context: ()
) -> Iterator[ConsoleStack]:
    """Runs a data server, for its JobService, and a gateway until the block ends; no other service is there.

    Args:
        folder: for the home.
        extra: further lines of `cluster:`.
        mounts: further calls of the data server.
    """
    file, _ = make_cluster(folder)
    more = extra.replace("HOME", str(folder / "home")).rstrip()
    file.write_text(file.read_text().replace("topology:", f"{more}\ntopology:" if more else "topology:"))
    cluster = load_cluster(file)
    for tenant in cluster.cluster.security.tenants.values():
        ensure_token_file(Path(tenant.token_file))
    home = Home.of(cluster.cluster)
    made = ConsoleStack(file, cluster)
    started = threading.Event()
    loop: list[asyncio.AbstractEventLoop] = []
    stop = asyncio.Event()
    failed: list[BaseException] = []

    async def serve() -> None:
        store = ArtifactStore.open(home)
        async with AsyncExitStack() as closing:
            closing.callback(store.registry.close)
            context = ServerContext("data", cluster, home, store, closing)
            jobs = job_service(context, (Kind.tokenizer, Kind.tokenize))
            server = server_of(
                "data", cluster.cluster, [jobs, *mounts(context)], translations=TRANSLATIONS, end_at_drain=ENDLESS
            )
            made.gateway = Gateway.of(cluster)
            closing.push_async_callback(made.gateway.close)
            config = uvicorn.Config(
                create_app(made.gateway),
                host="127.0.0.1",
                port=made.port,
                http=ImpatientProtocol,
                lifespan="off",
                log_config=None,
            )
            web = uvicorn.Server(config)
            web.capture_signals = _nothing  # type: ignore[method-assign]
            async with server:
                serving = asyncio.create_task(web.serve())
                while not web.started:
                    await asyncio.sleep(0.01)
                loop.append(asyncio.get_running_loop())
                started.set()
                await stop.wait()
                made.gateway.begin_drain()
                web.should_exit = web.force_exit = True
                await serving

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
            started.set()
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(60)
    if failed:
        raise failed[0]
    try:
        yield made
    finally:
        loop[0].call_soon_threadsafe(stop.set)
        thread.join(60)
