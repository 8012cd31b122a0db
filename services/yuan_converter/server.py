"""The converter service's own call: what a model's files hold, read from their headers."""

import asyncio
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.serving import ServerContext
from yuan_rpc import Internal, InvalidArgument, Mount
from yuan_rpc.converter.v1 import converter_pb2, converter_pb2_grpc

SERVICE = "yuan.converter.v1.ConverterService"


def mounts(context: ServerContext) -> Sequence[Mount]:
    """Returns what the converter server serves beside jobs."""
    add = converter_pb2_grpc.add_ConverterServiceServicer_to_server
    return [Mount(add, ConverterServicer(context.store), SERVICE)]


class ConverterServicer(converter_pb2_grpc.ConverterServiceServicer):
    """Answers questions on models of one store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def InspectCheckpoint(  # noqa: N802 - the proto's name
        self, request: converter_pb2.InspectCheckpointRequest, context: Any
    ) -> converter_pb2.InspectCheckpointResponse:
        """Returns a model's layout, network and tensors; no tensor is read."""
        del context
        if not request.model:
            raise InvalidArgument("model: empty; expected [model/]NAME[@VERSION]", {"model": "empty"})
        return await asyncio.to_thread(self._inspect, request.model)

    def _inspect(self, reference: str) -> converter_pb2.InspectCheckpointResponse:
        from yuan_model import ModelFolder, ModelFolderError  # noqa: PLC0415 - torch takes seconds: the server is up first

        handle = self._store.open_artifact(reference, "model")
        try:
            folder = ModelFolder(handle.path)
        except ModelFolderError as error:
            raise Internal(f"{handle.reference}: {error}") from error
        response = converter_pb2.InspectCheckpointResponse(
            reference=handle.reference,
            layout="native" if folder.native else "huggingface",
            parameters=folder.config.parameter_count(),
            size_bytes=sum(path.stat().st_size for path in folder.files),
            tensors=[
                converter_pb2.TensorInfo(
                    name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, file=tensor.file.name
                )
                for tensor in folder.stored_tensors()
            ],
        )
        json_format.ParseDict(folder.config.to_dict(), response.config)
        return response
