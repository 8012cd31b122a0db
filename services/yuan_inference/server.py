"""The inference service's calls: thin, over `Answering`, `Deploying` and `ServedModels`.

What is deployed is loaded when the server starts (the registry's deployments), and when `LoadModel` says so.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import torch
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from yuan_corpus import TokenizerError
from yuan_events import one_line
from yuan_inference.answering import Answering
from yuan_inference.deploying import Deploying
from yuan_inference.engine import EngineMetrics
from yuan_inference.messages import REASONS, Whole, info_of, load_of, logprobs_of, prompt_logprobs_of, told_prompt
from yuan_inference.served import ServedModels
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.serving import ServerContext
from yuan_manifest import Device
from yuan_rpc import VERSION, InvalidArgument, Mount, NotFound, RpcServer
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from yuan_rpc.request_log import RequestLog
from yuan_rpc.tracing import OFF, Tracing

SERVICE = "yuan.inference.v1.InferenceService"

_SECONDS_BETWEEN_LOOKS = 0.2

_LAST_SECONDS = 2.0
"""Of the time that a drain has: requests that still run then are ended, so that their clients read why."""


def mounts(context: ServerContext) -> Sequence[Mount]:
    """Returns what the inference server serves; what is deployed is loaded as soon as its port is open."""
    collected = CollectorRegistry()
    models = ServedModels(str(context.manifest.topology.nodes.device), EngineMetrics(collected))
    nodes = context.manifest.topology.nodes
    on_cuda = nodes.device != Device.cpu and torch.cuda.is_available()
    servicer = InferenceServicer(
        models,
        context.store,
        cuda_devices=nodes.count * nodes.devices if on_cuda else 0,
        log=RequestLog("inference", context.manifest.cluster.observability),
        tracing=context.tracing,
    )
    context.closing.push_async_callback(models.close)

    def begin(server: RpcServer) -> None:
        server.registry.register(collected)
        for work in (servicer.load_deployments(), servicer.watch(server)):
            task = asyncio.create_task(work)
            context.closing.callback(task.cancel)

    context.on_ready.append(begin)
    return [Mount(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, SERVICE)]


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Text from the models of one store."""

    def __init__(
        self,
        models: ServedModels,
        store: ArtifactStore,
        *,
        cuda_devices: int = 0,
        log: RequestLog | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        """Makes the calls' servicer.

        Args:
            models: what is served.
            store: where models are loaded from, with the registry of deployments.
            cuda_devices: that the stack has, of which every model takes one; 0: models share the processor.
            log: where requests are told of; None: nowhere.
            tracing: spans of engines.
        """
        self._models = models
        self._answering = Answering(models, log, tracing)
        self.deploying = Deploying(models, store, cuda_devices=cuda_devices)
        self._started = time.monotonic()
        self._server: RpcServer | None = None

    async def load_deployments(self) -> None:
        """Loads what the registry says is to be served."""
        await self.deploying.load_deployments()

    async def watch(self, server: RpcServer) -> None:
        """Tells health of engines that cannot compute, and ends what still runs shortly before a drain's time is over.

        Args:
            server: this servicer's.
        """
        self._server = server
        serving = True
        while not server.draining.is_set():
            if self._models.healthy != serving:
                serving = not serving
                for name in ("", SERVICE):
                    await server.set_serving(serving, name)
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        await asyncio.sleep(max(0.0, server.drain_seconds - _LAST_SECONDS))
        self._answering.stop()

    # --- text ---------------------------------------------------------------------------------------------------

    async def Generate(  # noqa: N802 - the proto's name, as below
        self, request: inference_pb2.GenerateRequest, context: Any
    ) -> inference_pb2.GenerateResponse:
        """Returns a whole answer: all n continuations."""
        del context
        whole: Whole | None = None
        response = inference_pb2.GenerateResponse()
        async with aclosing(self._answering.generate(request)) as parts:
            async for answer, output in parts:
                tokenizer = answer.served.engine.loaded.tokenizer
                whole = whole or Whole(tokenizer)
                whole.add(output)
                response.prompt_logprobs.extend(told_prompt(answer, output))
                if output.last:
                    response.MergeFrom(whole.response(answer.id, answer.usage))
                    response.model = answer.model
        return response

    async def GenerateStream(  # noqa: N802
        self, request: inference_pb2.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[inference_pb2.GenerateStreamResponse]:
        """Streams an answer; usage in every message, finish_reason in the last of each continuation."""
        del context
        async with aclosing(self._answering.generate(request.request)) as parts:
            async for answer, output in parts:
                tokenizer = answer.served.engine.loaded.tokenizer
                response = inference_pb2.GenerateStreamResponse(
                    request_id=answer.id,
                    text=output.text,
                    token_ids=output.token_ids,
                    stop_reason=output.stop_reason,
                    index=output.index,
                    model=answer.model,
                    usage=answer.usage,
                    logprobs=logprobs_of(tokenizer, output.logprobs),
                )
                response.prompt_logprobs.extend(told_prompt(answer, output))
                if output.finish_reason is not None:
                    response.finish_reason = REASONS[output.finish_reason]
                yield response

    async def Score(  # noqa: N802
        self, request: inference_pb2.ScoreRequest, context: Any
    ) -> inference_pb2.ScoreResponse:
        """Returns the log-probability of each token of a text."""
        del context
        answer, output = await self._answering.score(request)
        ids = answer.request.prompt_ids
        tokenizer = answer.served.engine.loaded.tokenizer
        return inference_pb2.ScoreResponse(
            request_id=answer.id,
            logprobs=prompt_logprobs_of(tokenizer, ids[0], output.prompt_logprobs),
            sum=sum(one.logprob for one in output.prompt_logprobs),
            usage=answer.usage,
            model=answer.model,
        )

    async def Abort(  # noqa: N802
        self, request: inference_pb2.AbortRequest, context: Any
    ) -> inference_pb2.AbortResponse:
        """Ends requests; those that are not known, or another tenant's, are left out of the answer."""
        del context
        aborted = [name for name in request.request_ids if self._answering.abort(name)]
        return inference_pb2.AbortResponse(aborted=aborted)

    # --- tokens -------------------------------------------------------------------------------------------------

    async def Tokenize(  # noqa: N802
        self, request: inference_pb2.TokenizeRequest, context: Any
    ) -> inference_pb2.TokenizeResponse:
        """Returns the ids that the model would see, and each as a piece."""
        del context
        engine = self._models.find(request.model)[0].engine
        tokenizer = engine.loaded.tokenizer
        ids = await asyncio.to_thread(tokenizer.encode, request.text)
        pieces = [tokenizer.piece(token) for token in ids]
        return inference_pb2.TokenizeResponse(token_ids=ids, pieces=pieces, max_model_len=engine.longest)

    async def Detokenize(  # noqa: N802
        self, request: inference_pb2.DetokenizeRequest, context: Any
    ) -> inference_pb2.DetokenizeResponse:
        """Returns the text of ids."""
        del context
        tokenizer = self._models.find(request.model)[0].engine.loaded.tokenizer
        try:
            text = await asyncio.to_thread(tokenizer.decode, request.token_ids)
        except TokenizerError as error:
            raise InvalidArgument(one_line(error), {"token_ids": one_line(error)}) from None
        return inference_pb2.DetokenizeResponse(text=text)

    # --- models -------------------------------------------------------------------------------------------------

    async def GetModelInfo(  # noqa: N802
        self, request: inference_pb2.GetModelInfoRequest, context: Any
    ) -> inference_pb2.GetModelInfoResponse:
        """Describes a served model; asked for an adapter by its name, the model that has it."""
        del context
        served, adapter = self._models.find(request.model)
        if adapter and adapter not in served.engine.adapters:
            raise NotFound("adapter", adapter, f"model {served.wanted.name} has no adapter {adapter}")
        return info_of(served)

    async def GetServerInfo(  # noqa: N802
        self, request: inference_pb2.GetServerInfoRequest, context: Any
    ) -> inference_pb2.GetServerInfoResponse:
        """Describes the server."""
        del request, context
        return inference_pb2.GetServerInfoResponse(
            version=VERSION,
            uptime_seconds=time.monotonic() - self._started,
            draining=self._server is not None and self._server.draining.is_set(),
            models=[info_of(served) for served in self._models.served],
            loading=self._models.loading,
            failed=self._models.failed,
            load_progress=self._models.progress,
        )

    async def GetLoads(  # noqa: N802
        self, request: inference_pb2.GetLoadsRequest, context: Any
    ) -> inference_pb2.GetLoadsResponse:
        """Says how busy each model is."""
        del context
        found = [self._models.get(request.model)] if request.model else self._models.served
        return inference_pb2.GetLoadsResponse(loads=[load_of(one.wanted.name, one.engine) for one in found])

    async def GetMetrics(  # noqa: N802
        self, request: inference_pb2.GetMetricsRequest, context: Any
    ) -> inference_pb2.GetMetricsResponse:
        """Returns the Prometheus page."""
        del request, context
        text = "" if self._server is None else generate_latest(self._server.registry).decode()
        return inference_pb2.GetMetricsResponse(text=text)

    async def LoadModel(  # noqa: N802
        self, request: inference_pb2.LoadModelRequest, context: Any
    ) -> inference_pb2.LoadModelResponse:
        """Loads a model beside what is served, then swaps."""
        del context
        started = time.monotonic()
        served = await self.deploying.load_asked(request)
        return inference_pb2.LoadModelResponse(info=info_of(served), seconds=time.monotonic() - started)

    async def UnloadModel(  # noqa: N802
        self, request: inference_pb2.UnloadModelRequest, context: Any
    ) -> inference_pb2.UnloadModelResponse:
        """Serves a model no more."""
        del context
        if not request.model:
            raise InvalidArgument("model: empty; expected the name that it is served under", {"model": "empty"})
        artifact = await self.deploying.unload(request.model, unless_deployed=request.unless_deployed)
        return inference_pb2.UnloadModelResponse(artifact=artifact)
