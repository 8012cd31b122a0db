"""A deploy job: says in the registry what is to be served, and has the inference service load it now.

The registry's row is what the service reads when it starts; so a model stays deployed over restarts. Where the service
refuses the model, the row says again what it said before, since that is what is still served.
"""

import time
from typing import Any

import grpc

from yuan_events import InputError, Message, Progress, WorkFailed
from yuan_jobs import WorkContext, WorkResult
from yuan_jobs.deployments import deploy, deployment, remove_deployment, set_deployment_state
from yuan_jobs.home import Home
from yuan_jobs.records import DeploymentRecord
from yuan_jobs.registry import Registry
from yuan_jobs.states import DeploymentState
from yuan_manifest.schema import Cluster, DeployJob, as_plain
from yuan_rpc import Connection, RpcFailed, RpcRefused, connect
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

PATIENCE_SECONDS = 60.0
"""How long a service that is being started is waited for."""

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BETWEEN_REPORTS = 0.5


def deploy_work(context: WorkContext[DeployJob]) -> WorkResult:
    """Deploys the model that a deploy job names.

    Raises:
        InputError: if there is no stack, or the inference service refuses the model.
        WorkFailed: if the inference service does not answer, or fails.
        Interrupted: if it was asked to stop; what was served before is served on.
    """
    if context.cluster is None:
        raise InputError(
            f"{context.job.name}: a deploy job needs a stack, whose inference service serves the model; "
            "yuan up, then yuan deploy MODEL or yuan submit MANIFEST"
        )
    model = context.inputs["model"]
    name = context.job.serving.name or model.name
    registry = Registry.open(Home.of(context.cluster).registry_url)
    try:
        before = deployment(registry, name)
        serving = {**as_plain(context.job.serving), "adapters": _adapters(context)}
        deploy(registry, name, model.reference, serving, context.job_id)
        try:
            response = _load(context, context.cluster, name, model.reference)
        except RpcFailed as error:
            if isinstance(error, RpcRefused):
                _restore(registry, name, model.reference, before)
                raise InputError(f"{model.reference} cannot be served: {error}") from error
            raise WorkFailed(f"{error}; {model.reference} is loaded as {name} when the service starts") from error
        except BaseException:
            _restore(registry, name, model.reference, before)
            raise
        set_deployment_state(registry, name, model.reference, DeploymentState.READY)
    finally:
        registry.close()
    info = response.info
    context.sink.emit(
        Message(
            f"{info.artifact} is served as {name} on {info.device}, {info.dtype}, context {info.max_model_len} tokens; "
            f'yuan generate {name} "…"'
        )
    )
    return WorkResult(_summary(info, response.seconds))


def _load(
    context: WorkContext[DeployJob], cluster: Cluster, name: str, reference: str
) -> inference_pb2.LoadModelResponse:
    """Calls LoadModel and waits for it, as long as the job is to go on."""
    serving = context.job.serving
    request = inference_pb2.LoadModelRequest(
        artifact=reference,
        name=name,
        dtype=serving.dtype or "",
        max_batch=serving.max_batch,
        kv_tokens=serving.kv_tokens or 0,
        max_waiting=serving.max_waiting,
        tensor=serving.tensor,
        adapters=_adapters(context),
        prompt_lookup=serving.prompt_lookup,
    )
    with connect("inference", cluster) as connection:
        # A server that is just being started is no reason to fail a job; one that stays away is, in the call below.
        connection.wait_until_serving(PATIENCE_SECONDS, give_up=context.should_stop)
        context.stop_if_asked()
        context.sink.emit(Progress("load", 0, 100, "percent", f"{reference} as {name}"))
        response = _called(context, connection, request)
    context.sink.emit(Progress("load", 100, 100, "percent", f"{reference} as {name}"))
    return response


def _adapters(context: WorkContext[DeployJob]) -> dict[str, str]:
    return {name: context.inputs[f"adapters.{name}"].reference for name in context.job.inputs.adapters}


def _called(
    context: WorkContext[DeployJob], connection: Connection, request: inference_pb2.LoadModelRequest
) -> inference_pb2.LoadModelResponse:
    stub: Any = connection.stub(inference_pb2_grpc.InferenceServiceStub)
    with connection.errors():
        call = stub.LoadModel.future(request)
        try:
            last, looked = 0, time.monotonic()
            while not call.done():
                context.stop_if_asked()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                if time.monotonic() - looked >= _SECONDS_BETWEEN_REPORTS and not call.done():
                    looked = time.monotonic()
                    now = _percent(stub, request.name)
                    if now > last:
                        context.sink.emit(
                            Progress("load", now, 100, "percent", f"{request.artifact} as {request.name}")
                        )
                        last = now
            return call.result()
        finally:
            call.cancel()


def _percent(stub: Any, name: str) -> int:
    """Returns how much of a model's weights the service has read; 0 where it does not say."""
    try:
        info = stub.GetServerInfo(inference_pb2.GetServerInfoRequest(), timeout=1.0)
    except grpc.RpcError:  # the call that counts says what is wrong
        return 0
    return int(100 * info.load_progress[name]) if name in info.load_progress else 0


def _restore(registry: Registry, name: str, reference: str, before: DeploymentRecord | None) -> None:
    """Wants served again what was before, unless somebody else has deployed meanwhile."""
    present = deployment(registry, name)
    if present is None or present.artifact != reference:
        return
    if before is None:
        remove_deployment(registry, name)
        return
    deploy(registry, name, before.artifact, before.serving, before.job_id, users=before.users)
    set_deployment_state(registry, name, before.artifact, before.state, before.reason)


def _summary(info: inference_pb2.GetModelInfoResponse, seconds: float) -> dict[str, Any]:
    return {
        "name": info.model,
        "artifact": info.artifact,
        "dtype": info.dtype,
        "device": info.device,
        "max_model_len": info.max_model_len,
        "parameters": info.parameters,
        "seconds": seconds,
    }
