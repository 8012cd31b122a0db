"""A real gRPC inference service whose answers are a function of the prompt, without a model; and a home for jobs."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from yuan_evaluator.evaluation import evaluate_work, fingerprint
from yuan_events import NullSink, RecordingSink
from yuan_jobs import Work, WorkContext, WorkResult
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.attempt import Outcome
from yuan_jobs.execution import execute
from yuan_jobs.home import Home
from yuan_manifest import ClusterManifest, job_of_plain, load_cluster, resolve_topology
from yuan_rpc import ensure_token_file
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

Answering = Callable[[inference_pb2.GenerateRequest], str]


@dataclass
class Scripted(inference_pb2_grpc.InferenceServiceServicer):
    """Answers as it is told; fails as it is told.

    Attributes:
        answer: the text of a request.
        fail: called first; may abort the call through the context.
        seconds: that an answer takes.
        requests: for text, in the order in which they came.
        scored: texts whose likelihood was asked for.
        loaded: names of what it serves.
    """

    answer: Answering
    fail: Callable[[int, Any], None] = lambda number, context: None
    seconds: float = 0.0
    requests: list[inference_pb2.GenerateRequest] = field(default_factory=list)
    scored: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    loaded: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def GenerateStream(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        with self.lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.requests.append(request.request)
            number = len(self.requests)
        try:
            self.fail(number, context)
            time.sleep(self.seconds)
            text = self.answer(request.request)
            most = request.request.sampling_params.max_tokens
            half = len(text) // 2
            yield inference_pb2.GenerateStreamResponse(text=text[:half])
            last = inference_pb2.GenerateStreamResponse(
                text=text[half:], finish_reason=inference_pb2.FINISH_REASON_STOP
            )
            last.usage.completion_tokens = min(most, len(text))
            yield last
        finally:
            with self.lock:
                self.running -= 1

    def Tokenize(self, request: Any, context: Any) -> Any:  # noqa: N802
        return inference_pb2.TokenizeResponse(token_ids=[ord(character) for character in request.text])

    def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Gives each character the negative of its code as its log-probability."""
        ids = request.prompt_token_ids
        with self.lock:
            self.scored.append("".join(map(chr, ids)))
            number = len(self.scored)
        self.fail(number, context)
        logprobs = [inference_pb2.TokenLogprob(token_id=ids[0])]
        logprobs += [inference_pb2.TokenLogprob(token_id=token, logprob=-token) for token in ids[1:]]
        return inference_pb2.ScoreResponse(logprobs=logprobs, sum=-sum(ids[1:]))

    def GetModelInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model not in self.loaded:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return inference_pb2.GetModelInfoResponse(model=request.model, artifact="model/oracle@1", vocab_size=50_000)

    def LoadModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.loaded.append(request.name)
        return inference_pb2.LoadModelResponse(
            info=self.GetModelInfo(inference_pb2.GetModelInfoRequest(model=request.name), context)
        )

    def UnloadModel(self, request: Any, context: Any) -> Any:  # noqa: N802
        assert request.unless_deployed
        self.loaded.remove(request.model)
        return inference_pb2.UnloadModelResponse(artifact="model/oracle@1")


@contextmanager
def serving(servicer: Scripted, port: int = 0) -> Iterator[int]:
    """Serves on a port (0: a free one); gives it."""
    server = grpc.server(futures.ThreadPoolExecutor(64))
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    healthy = health.HealthServicer()
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield bound
    finally:
        server.stop(0).wait()


class EvaluatorHome:
    """A home with model/oracle in it, whose stack's inference service is at a port."""

    def __init__(self, folder: Path, port: int) -> None:
        ensure_token_file(folder / "home/token")
        self.folder = folder
        (folder / "cluster.yaml").write_text(
            f"version: 1\ncluster:\n  home: {folder}/home\n  services:\n    data: null\n    trainer: null\n"
            f"    converter: null\n    evaluator: null\n    inference: {{port: {port}, workers: 0}}\n"
        )
        self.manifest: ClusterManifest = load_cluster(folder / "cluster.yaml")
        self.sink = RecordingSink()

    @classmethod
    def of_stack(cls, file: Path) -> "EvaluatorHome":
        """Returns the home of a cluster's file that is there already, with a sink of its own."""
        home = cls.__new__(cls)
        home.folder, home.manifest, home.sink = file.parent, load_cluster(file), RecordingSink()
        return home

    def publish(self, name: str, files: dict[str, str] | Path, **inputs: str) -> None:
        """Publishes a model of some files; `datasets`: those it says that it was trained on."""

        def work(context: WorkContext[Any]) -> WorkResult:
            if isinstance(files, Path):
                shutil.copytree(files, context.output, dirs_exist_ok=True)
            else:
                for file, text in files.items():
                    (context.output / file).write_text(text)
            return WorkResult()

        job = job_of_plain(
            {"version": 1, "kind": "convert", "name": name, "inputs": inputs or {"path": str(self.folder)},
             "outputs": {"model": name}}
        )  # fmt: skip
        execute(
            job, resolve_topology(job, self.manifest), self.manifest.cluster, Work(run=work), NullSink(), force=True
        )

    def evaluate(self, *, stop: Callable[[], bool] = lambda: False, force: bool = False, **tree: Any) -> Outcome:
        """Runs an evaluate job as a worker of the stack does: with the cluster."""
        job = job_of_plain({"version": 1, "kind": "evaluate", "name": "test", "outputs": {"report": "test"}, **tree})

        def work(context: WorkContext[Any]) -> WorkResult:
            from dataclasses import replace

            return evaluate_work(replace(context, cluster=self.manifest.cluster))

        run = Work(run=work, fingerprint=fingerprint)
        topology = resolve_topology(job, self.manifest)
        return execute(job, topology, self.manifest.cluster, run, self.sink, force=force, should_stop=stop)

    @property
    def store(self) -> ArtifactStore:
        """Its artifacts."""
        return ArtifactStore.open(Home.of(self.manifest.cluster))
