"""Deployed models as the inference server has them: served, on their way, or not to be loaded."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from yuan_events import YuanError
from yuan_jobs.deployments import deployments
from yuan_jobs.queries import read_if_there
from yuan_manifest import ClusterManifest
from yuan_rpc import connect
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

_ANSWER_SECONDS = 2.0
_BETWEEN_LOOKS_S = 0.5
_STEP = 0.1
"""Of a load's progress, that is worth a line."""


class ModelState(StrEnum):
    """How a model stands."""

    served = "served"
    loading = "loading"
    failed = "failed"


@dataclass(frozen=True)
class ModelStatus:
    """One model.

    Attributes:
        name: that it is asked for by.
        state: how it stands.
        progress: the part of its weights that has been read, 0 to 1.
        about: the artifact that is served, or why it could not be loaded.
    """

    name: str
    state: ModelState
    progress: float
    about: str = ""

    def __str__(self) -> str:
        if self.state is ModelState.loading:
            return f"{self.name} is being loaded, {self.progress:.0%} of its weights are read"
        stands = "is served" if self.state is ModelState.served else "could not be loaded"
        return f"{self.name} {stands}: {self.about}"


def models_of(manifest: ClusterManifest) -> tuple[ModelStatus, ...]:
    """Returns the models of a cluster's inference server, by name; none where there is no server or no answer.

    Args:
        manifest: the cluster.
    """
    with suppress(YuanError), connect("inference", manifest.cluster) as connection, connection.errors():
        stub: Any = connection.stub(inference_pb2_grpc.InferenceServiceStub)
        info = stub.GetServerInfo(inference_pb2.GetServerInfoRequest(), timeout=_ANSWER_SECONDS)
        found = {model.model: ModelStatus(model.model, ModelState.served, 1.0, model.artifact) for model in info.models}
        found |= {name: ModelStatus(name, ModelState.failed, 0.0, why) for name, why in info.failed.items()}
        found |= {name: ModelStatus(name, ModelState.loading, info.load_progress[name]) for name in info.loading}
        return tuple(found[name] for name in sorted(found))
    return ()


class LoadWatch:
    """Tells how far models are that are loaded when a server starts, until all that are deployed have been."""

    def __init__(self, manifest: ClusterManifest, say: Callable[[str], None]) -> None:
        """Args: manifest: the cluster. say: takes a line."""
        self._manifest, self._say = manifest, say
        self._left = set(_deployed(manifest))
        self._told: dict[str, float] = {}
        self._looked = 0.0

    def look(self) -> None:
        """Says what is new; to be called often, asks seldom."""
        if not self._left or time.monotonic() - self._looked < _BETWEEN_LOOKS_S:
            return
        for model in models_of(self._manifest):
            if model.name not in self._left:
                continue
            if model.state is not ModelState.loading:
                self._left.discard(model.name)
                self._say(f"model {model}")
            elif model.progress >= self._told.get(model.name, -1.0) + _STEP:
                self._told[model.name] = model.progress
                self._say(f"model {model}")
        self._looked = time.monotonic()


def _deployed(manifest: ClusterManifest) -> list[str]:
    """Returns the names of what is deployed; none where there is no registry that can be read."""
    if manifest.cluster.services.inference is None:
        return []
    nothing: list[str] = []
    return read_if_there(
        manifest.cluster.registry, lambda registry: [record.name for record in deployments(registry)], nothing
    )
