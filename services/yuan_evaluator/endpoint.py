"""Where the model that is evaluated answers.

A stack's inference service, which loads it where it does not serve it yet; a server of our own where there is no stack.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from yuan_evaluator.private_server import private_server
from yuan_events import InputError, Message, Progress, WorkFailed, one_line
from yuan_jobs import WorkContext
from yuan_jobs.deployments import begin_use, end_use, remove_deployment, set_deployment_state
from yuan_jobs.home import Home
from yuan_jobs.registry import Registry
from yuan_jobs.states import DeploymentState
from yuan_manifest.schema import Cluster, EvaluateJob, ServingSection, as_plain
from yuan_rpc import Connection, RpcFailed, RpcRefused, connect
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

_PATIENCE_SECONDS = 120.0
_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Endpoint:
    """A model that answers.

    Attributes:
        cluster: whose inference service has it.
        name: that it is served under.
        max_batch: requests that run at once; 0: not known.
        vocabulary: ids of its tokenizer.
        private: whether the server is ours alone.
    """

    cluster: Cluster
    name: str
    max_batch: int
    vocabulary: int
    private: bool

    def connect(self) -> Connection:
        """Opens a connection."""
        return connect("inference", self.cluster)


@contextmanager
def endpoint(context: WorkContext[EvaluateJob]) -> Generator[Endpoint]:
    """Gives the model of an evaluate job, served.

    Raises:
        InputError: if it cannot be served.
        WorkFailed: if the inference service does not answer.
        Interrupted: if it was asked to stop.
    """
    model = context.inputs["model"]
    if context.cluster is not None and context.cluster.services.inference is not None:
        info, batch = _in_stack(context, context.cluster)
        try:
            yield Endpoint(context.cluster, info.model, batch, info.vocab_size, private=False)
        finally:
            if not context.job.evaluate.keep_served:
                _take_down(context, context.cluster, info.model)
        return
    with private_server(model, context.topology, context.should_stop) as manifest:
        context.stop_if_asked()
        with connect("inference", manifest.cluster) as connection:
            context.sink.emit(Message(f"{model.reference} is served for this run alone"))
            response = _load(context, connection, inference_pb2.LoadModelRequest(artifact=model.name, name=model.name))
        batch, vocabulary = ServingSection.max_batch, response.info.vocab_size
        yield Endpoint(manifest.cluster, model.name, batch, vocabulary, private=True)


def _in_stack(context: WorkContext[EvaluateJob], cluster: Cluster) -> tuple[inference_pb2.GetModelInfoResponse, int]:
    """Returns what a stack says of the model, and its batch; deploys it where it is not."""
    model = context.inputs["model"]
    keep = context.job.evaluate.keep_served
    names = (model.name, f"{model.name[:80]}-v{model.version}", context.job_id)
    serving = as_plain(ServingSection())
    registry = Registry.open(Home.of(cluster).registry_url)
    try:
        with connect("inference", cluster) as connection:
            connection.wait_until_serving(_PATIENCE_SECONDS, give_up=context.should_stop)
            context.stop_if_asked()
            silent: list[str] = []
            while True:
                record, is_new = begin_use(
                    registry, model.reference, context.job_id, names=names, serving=serving, keep=keep, without=silent
                )
                name = record.name
                try:
                    info = None if is_new else _info(context, connection, name)
                    answers = info is not None and info.artifact == model.reference
                    # One that another job has just made may not be loaded yet: asked for twice, it is loaded once.
                    if not answers and record.serving == {**serving, "name": name}:
                        request = inference_pb2.LoadModelRequest(artifact=model.reference, name=name)
                        info = _load(context, connection, request).info
                        set_deployment_state(registry, name, model.reference, DeploymentState.READY)
                except BaseException:
                    if is_new and keep:
                        remove_deployment(registry, name)
                    end_use(registry, name, context.job_id)
                    raise
                if info is not None and info.artifact == model.reference:
                    break
                end_use(registry, name, context.job_id)
                silent.append(name)
            told = f"{model.reference} answers as {name}"
            if is_new:
                until = "from now on" if keep else "for this job"
                told = f"{model.reference} was not deployed: it is served as {name} {until}"
            context.sink.emit(Message(told))
            return info, int(record.serving.get("max_batch") or ServingSection.max_batch)
    finally:
        registry.close()


def _take_down(context: WorkContext[EvaluateJob], cluster: Cluster, name: str) -> None:
    """Ends what was deployed for this job, an earlier attempt of it included, unless others use it or it is to stay."""
    registry = Registry.open(Home.of(cluster).registry_url)
    try:
        if not end_use(registry, name, context.job_id):
            return
    finally:
        registry.close()
    try:
        with connect("inference", cluster) as connection, connection.errors():
            stub: Any = connection.stub(inference_pb2_grpc.InferenceServiceStub)
            stub.UnloadModel(inference_pb2.UnloadModelRequest(model=name, unless_deployed=True))
    except RpcFailed as error:
        text = f"{name} could not be unloaded ({one_line(error)}); the inference service has it until it starts anew"
        context.sink.emit(Message(text, level="warning"))
    else:
        context.sink.emit(Message(f"{name} is served no longer (evaluate.keep_served: false)"))


def _info(
    context: WorkContext[EvaluateJob], connection: Connection, name: str
) -> inference_pb2.GetModelInfoResponse | None:
    """Returns what a served model says of itself, once it is loaded; None where it is not served."""
    stub: Any = connection.stub(inference_pb2_grpc.InferenceServiceStub)
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        context.stop_if_asked()
        try:
            with connection.errors():
                return stub.GetModelInfo(inference_pb2.GetModelInfoRequest(model=name))
        except RpcRefused:
            return None
        except RpcFailed:
            if time.monotonic() > end:
                raise
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _load(
    context: WorkContext[EvaluateJob], connection: Connection, request: inference_pb2.LoadModelRequest
) -> inference_pb2.LoadModelResponse:
    stub: Any = connection.stub(inference_pb2_grpc.InferenceServiceStub)
    context.sink.emit(Progress("load", 0, 1, "models"))
    try:
        with connection.errors():
            call = stub.LoadModel.future(request)
            try:
                while not call.done():
                    context.stop_if_asked()
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                response = call.result()
            finally:
                call.cancel()
    except RpcRefused as error:
        raise InputError(f"{request.artifact} cannot be served: {error}") from error
    except RpcFailed as error:
        raise WorkFailed(f"{request.artifact} could not be served: {error}") from error
    context.sink.emit(Progress("load", 1, 1, "models"))
    return response
