"""The inference service's calls: thin, over `ServedModels` and their engines.

What is deployed is loaded when the server starts (the registry's deployments), and when `LoadModel` says so.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import torch
from google.protobuf import json_format
from prometheus_client import CollectorRegistry

from yuan_corpus import TokenizerError
from yuan_events import InputError, YuanError, one_line
from yuan_inference.arguments import request_of
from yuan_inference.engine import EngineMetrics, EngineOptions, EngineStopped, FinishReason, Output, QueueFull, Request
from yuan_inference.loaded import DTYPES
from yuan_inference.served import Served, ServedModels, Wanted
from yuan_inference.streams import outputs
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.deployments import deployments, set_deployment_state
from yuan_jobs.records import DeploymentRecord
from yuan_jobs.references import NAME_RULE, Reference, is_name
from yuan_jobs.serving import ServerContext
from yuan_jobs.slots import release_deployment, take_for_deployment
from yuan_jobs.states import DeploymentState
from yuan_manifest import Device
from yuan_manifest.values import shown
from yuan_rpc import AlreadyExists, InvalidArgument, Mount, ResourceExhausted, RpcServer, Unavailable
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

_LOGGER = logging.getLogger("yuan_inference.server")

SERVICE = "yuan.inference.v1.InferenceService"

_REASONS = {
    FinishReason.stop: inference_pb2.FINISH_REASON_STOP,
    FinishReason.length: inference_pb2.FINISH_REASON_LENGTH,
    FinishReason.abort: inference_pb2.FINISH_REASON_ABORT,
}


def mounts(context: ServerContext) -> Sequence[Mount]:
    """Returns what the inference server serves; what is deployed is loaded as soon as its port is open."""
    collected = CollectorRegistry()
    models = ServedModels(str(context.manifest.topology.nodes.device), EngineMetrics(collected))
    nodes = context.manifest.topology.nodes
    on_cuda = nodes.device != Device.cpu and torch.cuda.is_available()
    servicer = InferenceServicer(models, context.store, cuda_devices=nodes.count * nodes.devices if on_cuda else 0)
    context.closing.push_async_callback(models.close)

    def begin(server: RpcServer) -> None:
        server.registry.register(collected)
        task = asyncio.create_task(servicer.load_deployments())
        context.closing.callback(task.cancel)

    context.on_ready.append(begin)
    return [Mount(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, SERVICE)]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Text from the models of one store."""

    def __init__(self, models: ServedModels, store: ArtifactStore, *, cuda_devices: int = 0) -> None:
        """Makes the calls' servicer.

        Args:
            models: what is served.
            store: where models are loaded from, with the registry of deployments.
            cuda_devices: that the stack has, of which every model takes one; 0: models share the processor.
        """
        self._models = models
        self._store = store
        self._cuda_devices = cuda_devices

    # --- text ---------------------------------------------------------------------------------------------------

    async def Generate(  # noqa: N802 - the proto's name, as below
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> inference_pb2.GenerateResponse:
        """Returns a whole continuation."""
        del context
        response = inference_pb2.GenerateResponse()
        async with aclosing(self._continue(request)) as parts:
            async for asked, output in parts:
                response.request_id = asked.id
                response.text += output.text
                response.token_ids.extend(output.token_ids)
                response.usage.prompt_tokens = len(asked.prompt_ids)
                if output.finish_reason is not None:
                    response.finish_reason = _REASONS[output.finish_reason]
                    response.stop_reason = output.stop_reason
        response.usage.completion_tokens = len(response.token_ids)
        return response

    async def GenerateStream(  # noqa: N802
        self, request: inference_pb2.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateStreamResponse]:
        """Streams a continuation; usage in every message, finish_reason in the last."""
        del context
        drawn = 0
        async with aclosing(self._continue(request.request)) as parts:
            async for asked, output in parts:
                drawn += len(output.token_ids)
                response = inference_pb2.GenerateStreamResponse(
                    request_id=asked.id, text=output.text, token_ids=output.token_ids, stop_reason=output.stop_reason
                )
                response.usage.prompt_tokens, response.usage.completion_tokens = len(asked.prompt_ids), drawn
                if output.finish_reason is not None:
                    response.finish_reason = _REASONS[output.finish_reason]
                yield response

    async def _continue(self, message: inference_pb2.GenerateRequest) -> AsyncGenerator[tuple[Request, Output]]:
        """Yields the request and each of its outputs."""
        while True:
            served = self._models.get(message.model)
            request = await request_of(message, served.engine.loaded, served.engine.longest)
            begun = False
            try:
                async with aclosing(outputs(served.engine, request)) as parts:
                    async for output in parts:
                        begun = True
                        yield request, output
                return
            except EngineStopped:
                # Replaced between the two lines above: the new version answers. Not so where the server ends.
                if begun or self._models.get(message.model) is served:
                    raise Unavailable("the model is being stopped", retry_after=1.0) from None
            except QueueFull as error:
                raise ResourceExhausted(one_line(error), retry_after=1.0) from None
            except ValueError as error:
                raise AlreadyExists("request", request.id, one_line(error).removeprefix("ValueError: ")) from None

    async def Abort(  # noqa: N802
        self, request: inference_pb2.AbortRequest, context: Any
    ) -> inference_pb2.AbortResponse:
        """Ends requests; those that are not known are left out of the answer."""
        del context
        engines = self._models.engines
        aborted = [name for name in request.request_ids if sum(engine.abort(name) for engine in engines)]
        return inference_pb2.AbortResponse(aborted=aborted)

    # --- tokens -------------------------------------------------------------------------------------------------

    async def Tokenize(  # noqa: N802
        self, request: inference_pb2.TokenizeRequest, context: Any
    ) -> inference_pb2.TokenizeResponse:
        """Returns the ids that the model would see, and each as a piece."""
        del context
        tokenizer = self._models.get(request.model).engine.loaded.tokenizer
        ids = await asyncio.to_thread(tokenizer.encode, request.text)
        return inference_pb2.TokenizeResponse(token_ids=ids, pieces=[tokenizer.piece(token) for token in ids])

    async def Detokenize(  # noqa: N802
        self, request: inference_pb2.DetokenizeRequest, context: Any
    ) -> inference_pb2.DetokenizeResponse:
        """Returns the text of ids."""
        del context
        tokenizer = self._models.get(request.model).engine.loaded.tokenizer
        try:
            text = await asyncio.to_thread(tokenizer.decode, request.token_ids)
        except TokenizerError as error:
            raise InvalidArgument(one_line(error), {"token_ids": one_line(error)}) from None
        return inference_pb2.DetokenizeResponse(text=text)

    # --- models -------------------------------------------------------------------------------------------------

    async def GetModelInfo(  # noqa: N802
        self, request: inference_pb2.GetModelInfoRequest, context: Any
    ) -> inference_pb2.GetModelInfoResponse:
        """Describes a served model."""
        del context
        return _info(self._models.get(request.model))

    async def LoadModel(  # noqa: N802
        self, request: inference_pb2.LoadModelRequest, context: Any
    ) -> inference_pb2.LoadModelResponse:
        """Loads a model beside what is served, then swaps."""
        del context
        wrong = _wrong_of(request)
        if wrong:
            first = next(iter(wrong))
            raise InvalidArgument(f"{first}: {wrong[first]}", wrong)
        options = EngineOptions(
            max_batch=request.max_batch or EngineOptions.max_batch,
            kv_tokens=request.kv_tokens or None,
            max_waiting=request.max_waiting or EngineOptions.max_waiting,
        )
        name = request.name or Reference.parse(request.artifact, "model").name
        started = time.monotonic()
        served = await self._load(name, request.artifact, request.dtype or None, options)
        return inference_pb2.LoadModelResponse(info=_info(served), seconds=time.monotonic() - started)

    async def load_deployments(self) -> None:
        """Loads what the registry says is to be served, one after the other; what cannot be is told there."""
        try:
            wanted = await asyncio.to_thread(deployments, self._store.registry)
        except YuanError as error:
            _LOGGER.error("deployments cannot be read: %s", one_line(error))
            return
        self._models.announce(record.name for record in wanted)
        for record in wanted:
            try:
                await self._load_deployment(record)
            except Exception as error:  # noqa: BLE001 - one that cannot be loaded is no reason not to load the others
                _LOGGER.debug("deployment %s: %s", record.name, one_line(error))

    async def _load_deployment(self, record: DeploymentRecord) -> None:
        serving = record.serving
        options = EngineOptions(
            max_batch=serving.get("max_batch") or EngineOptions.max_batch,
            kv_tokens=serving.get("kv_tokens"),
            max_waiting=serving.get("max_waiting") or EngineOptions.max_waiting,
        )
        try:
            await self._load(record.name, record.artifact, serving.get("dtype"), options)
        except Exception as error:
            self._models.tell_failed(record.name, one_line(error))
            raise

    async def _load(self, name: str, artifact: str, dtype: str | None, options: EngineOptions) -> Served:
        """Loads a model and says how that went to the deployment of that name and artifact, if there is one."""

        def prepare() -> Wanted:
            handle = self._store.open_artifact(artifact, "model")
            if self._cuda_devices:
                take_for_deployment(self._store.registry, name, 1, self._cuda_devices)
            return Wanted(name, handle.reference, handle.path, dtype, options)

        try:
            served = await self._models.load(name, prepare)
        except Exception as error:
            if self._cuda_devices and name not in self._models.names:
                await asyncio.to_thread(release_deployment, self._store.registry, name)
            # A name that nobody deployed is no deployment that failed: who asks for it is told that there is none.
            if await self._tell(name, artifact, DeploymentState.FAILED, one_line(error)):
                self._models.tell_failed(name, one_line(error))
            raise
        await self._tell(name, served.wanted.artifact, DeploymentState.READY)
        return served

    async def _tell(self, name: str, artifact: str, state: DeploymentState, reason: str | None = None) -> bool:
        """Returns whether there is such a deployment."""
        try:
            return await asyncio.to_thread(set_deployment_state, self._store.registry, name, artifact, state, reason)
        except YuanError as error:
            _LOGGER.warning("the registry was not told of model %s: %s", name, one_line(error))
            return False


def _wrong_of(request: inference_pb2.LoadModelRequest) -> dict[str, str]:
    wrong: dict[str, str] = {}
    if not request.artifact:
        wrong["artifact"] = "empty; expected [model/]NAME[@VERSION]"
    else:
        try:
            Reference.parse(request.artifact, "model")
        except InputError as error:
            wrong["artifact"] = one_line(error).removeprefix("artifact ")
    if request.name and not is_name(request.name):
        wrong["name"] = f"{shown(request.name)} cannot be a name; use {NAME_RULE}"
    if request.dtype and request.dtype not in DTYPES:
        wrong["dtype"] = f"expected one of {', '.join(DTYPES)}, found {request.dtype[:50]}"
    for field in ("max_batch", "kv_tokens", "max_waiting"):
        if getattr(request, field) < 0:
            wrong[field] = f"expected at least 0 (0: the default), found {getattr(request, field)}"
    return wrong


def _info(served: Served) -> inference_pb2.GetModelInfoResponse:
    engine = served.engine
    model = engine.loaded.model
    weight = model.embed_tokens.weight
    info = inference_pb2.GetModelInfoResponse(
        model=served.wanted.name,
        artifact=served.wanted.artifact,
        dtype=next((name for name, dtype in DTYPES.items() if dtype == weight.dtype), str(weight.dtype)),
        device=str(weight.device),
        max_model_len=engine.longest,
        vocab_size=engine.loaded.tokenizer.vocab_size,
        parameters=model.config.parameter_count(),
    )
    json_format.ParseDict(model.config.to_dict(), info.config)
    return info
