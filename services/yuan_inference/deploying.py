"""What is to be served: loading and unloading models, with the registry's deployments and devices told of it."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from yuan_events import InputError, YuanError, one_line
from yuan_inference.engine import EngineOptions
from yuan_inference.loaded import DTYPES
from yuan_inference.served import Adapter, Served, ServedModels, Wanted
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.deployments import deployment, deployments, remove_deployment, set_deployment_state
from yuan_jobs.records import DeploymentRecord
from yuan_jobs.references import NAME_RULE, Reference, is_name
from yuan_jobs.slots import release_deployment, take_for_deployment
from yuan_jobs.states import DeploymentState
from yuan_manifest.sections import MOST_GUESSES
from yuan_manifest.values import shown
from yuan_rpc import InvalidArgument
from yuan_rpc.inference.v1 import inference_pb2

_LOGGER = logging.getLogger("yuan_inference.deploying")


@dataclass(frozen=True)
class _Artifacts:
    """A model and, by name, LoRA adapters of it, as references (`NAME[@VERSION]`)."""

    model: str
    adapters: Mapping[str, str]


class Deploying:
    """Loads the models of one store into one server."""

    def __init__(self, models: ServedModels, store: ArtifactStore, *, cuda_devices: int = 0) -> None:
        """Args: models: where they are served. store: where they are. cuda_devices: as of `InferenceServicer`."""
        self._models = models
        self._store = store
        self.cuda_devices = cuda_devices

    async def load_asked(self, request: inference_pb2.LoadModelRequest) -> Served:
        """Loads what a call asks for.

        Raises:
            InvalidArgument: if a field is wrong.
            YuanError: if the model cannot be loaded.
        """
        wrong = _wrong_of(request)
        if wrong:
            first = next(iter(wrong))
            raise InvalidArgument(f"{first}: {wrong[first]}", wrong)
        options = EngineOptions(
            max_batch=request.max_batch or EngineOptions.max_batch,
            kv_tokens=request.kv_tokens or None,
            max_waiting=request.max_waiting or EngineOptions.max_waiting,
            tensor=request.tensor or EngineOptions.tensor,
            prompt_lookup=request.prompt_lookup,
        )
        name = request.name or Reference.parse(request.artifact, "model").name
        artifacts = _Artifacts(request.artifact, dict(request.adapters))
        return await self._load(name, artifacts, request.dtype or None, options)

    async def unload(self, name: str, *, unless_deployed: bool = False) -> str:
        """Serves a model no more, now and after a start; returns its artifact.

        Args:
            name: that it is served under.
            unless_deployed: nothing happens where the registry has a deployment of that name.

        Raises:
            RpcError: if none is served under that name.
        """
        if unless_deployed:
            # Who deploys it anew has written that down before it asks for the load, which waits for this to end.
            served = await self._models.unload(name, unless=lambda: deployment(self._store.registry, name) is not None)
            return served.wanted.artifact
        if name in self._models.failed and name not in self._models.names:
            failed = await asyncio.to_thread(deployment, self._store.registry, name)
            await asyncio.to_thread(remove_deployment, self._store.registry, name)
            self._models.forget_failed(name)
            if failed is not None:
                return failed.artifact
        served = await self._models.unload(name)
        try:
            await asyncio.to_thread(remove_deployment, self._store.registry, name)
        except YuanError as error:
            _LOGGER.warning("the registry was not told that model %s is served no more: %s", name, one_line(error))
        if self.cuda_devices:
            await asyncio.to_thread(release_deployment, self._store.registry, name)
        return served.wanted.artifact

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
            tensor=serving.get("tensor") or EngineOptions.tensor,
            prompt_lookup=serving.get("prompt_lookup") or EngineOptions.prompt_lookup,
        )
        artifacts = _Artifacts(record.artifact, serving.get("adapters") or {})
        try:
            await self._load(record.name, artifacts, serving.get("dtype"), options)
        except Exception as error:
            self._models.tell_failed(record.name, one_line(error))
            raise

    async def _load(self, name: str, artifacts: _Artifacts, dtype: str | None, options: EngineOptions) -> Served:
        """Loads a model and says how that went to the deployment of that name and artifact, if there is one."""

        def prepare() -> Wanted:
            handle = self._store.open_artifact(artifacts.model, "model")
            opened = {
                adapter: self._store.open_artifact(given, "model") for adapter, given in artifacts.adapters.items()
            }
            devices: list[int] = []
            if self.cuda_devices:
                devices = take_for_deployment(self._store.registry, name, options.tensor, self.cuda_devices)
            adapters = {adapter: Adapter(found.reference, found.path) for adapter, found in opened.items()}
            placed = replace(options, devices=tuple(devices))
            return Wanted(name, handle.reference, handle.path, dtype, placed, adapters)

        try:
            served = await self._models.load(name, prepare)
        except Exception as error:
            if self.cuda_devices and name not in self._models.names:
                await asyncio.to_thread(release_deployment, self._store.registry, name)
            # A name that nobody deployed is no deployment that failed: who asks for it is told that there is none.
            if await self._tell(name, artifacts.model, DeploymentState.FAILED, one_line(error)):
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
    for adapter, artifact in request.adapters.items():
        try:
            Reference.parse(artifact, "model")
        except InputError as error:
            wrong["adapters"] = f"{shown(adapter)}: {one_line(error).removeprefix('artifact ')}"
        if not is_name(adapter):
            wrong["adapters"] = f"{shown(adapter)} cannot be a name; use {NAME_RULE}"
    if request.prompt_lookup > MOST_GUESSES:
        wrong["prompt_lookup"] = f"expected at most {MOST_GUESSES}, found {request.prompt_lookup}"
    for field in ("max_batch", "kv_tokens", "max_waiting", "tensor", "prompt_lookup"):
        if getattr(request, field) < 0:
            wrong[field] = f"expected at least 0 (0: the default), found {getattr(request, field)}"
    return wrong
