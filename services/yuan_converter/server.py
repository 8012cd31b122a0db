"""The converter service's own calls: what a checkpoint's files hold, and how two of them differ."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from yuan_converter.places import Place, artifact_place
from yuan_events import InputError
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.serving import ServerContext
from yuan_rpc import Internal, InvalidArgument, Mount
from yuan_rpc.converter.v1 import converter_pb2, converter_pb2_grpc

if TYPE_CHECKING:  # torch takes seconds: the server is up first
    from yuan_checkpoint import Checkpoint
    from yuan_checkpoint.inspection import Inspection, TensorFacts

SERVICE = "yuan.converter.v1.ConverterService"
_EXPECTED = "expected [model/]NAME[@VERSION], or the absolute path of a folder"


def mounts(context: ServerContext) -> Sequence[Mount]:
    """Returns what the converter server serves beside jobs."""
    add = converter_pb2_grpc.add_ConverterServiceServicer_to_server
    return [Mount(add, ConverterServicer(context.store), SERVICE)]


class ConverterServicer(converter_pb2_grpc.ConverterServiceServicer):
    """Answers questions on checkpoints of one store, and of folders that the server sees."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def InspectCheckpoint(  # noqa: N802 - the proto's name
        self, request: converter_pb2.InspectCheckpointRequest, context: Any
    ) -> converter_pb2.InspectCheckpointResponse:
        """Returns a checkpoint's layout, division, network and tensors."""
        del context
        if not request.model:
            raise InvalidArgument(f"model: empty; {_EXPECTED}", {"model": "empty"})
        return await asyncio.to_thread(self._inspect, request.model, values=request.values)

    async def DiffCheckpoints(  # noqa: N802 - the proto's name
        self, request: converter_pb2.DiffCheckpointsRequest, context: Any
    ) -> AsyncIterator[converter_pb2.DiffCheckpointsResponse]:
        """Yields how each parameter of two checkpoints compares."""
        del context
        for name in ("first", "second"):
            if not getattr(request, name):
                raise InvalidArgument(f"{name}: empty; {_EXPECTED}", {name: "empty"})
        first, second = await asyncio.to_thread(lambda: (self._open(request.first)[1], self._open(request.second)[1]))
        from yuan_checkpoint.inspection import differences  # noqa: PLC0415 - loaded by now

        try:
            found = differences(first, second)
            while (one := await asyncio.to_thread(next, found, None)) is not None:
                yield converter_pb2.DiffCheckpointsResponse(
                    name=one.name,
                    same=one.same,
                    remark=one.remark,
                    largest=one.largest,
                    relative=one.relative,
                    values=one.values,
                )
        finally:
            first.close()
            second.close()

    def _open(self, given: str) -> "tuple[Place, Checkpoint]":
        from yuan_checkpoint import open_checkpoint  # noqa: PLC0415 - torch takes seconds: the server is up first

        if given.startswith("/"):
            try:
                return Place(Path(given), given), open_checkpoint(Path(given), strict=False)
            except InputError as error:
                raise InvalidArgument(str(error), {"model": "no checkpoint"}) from error
        place = artifact_place(given, self._store)
        try:
            return place, open_checkpoint(place.folder, strict=False)
        except InputError as error:
            raise Internal(f"{place.name}: {error}") from error

    def _inspect(self, given: str, *, values: bool) -> converter_pb2.InspectCheckpointResponse:
        from yuan_checkpoint.inspection import inspect  # noqa: PLC0415 - as above

        place, checkpoint = self._open(given)
        try:
            return _message(place, inspect(checkpoint, values=values, hashes=place.hashes, hash_files=values))
        finally:
            checkpoint.close()


def _message(place: Place, found: "Inspection") -> converter_pb2.InspectCheckpointResponse:
    response = converter_pb2.InspectCheckpointResponse(
        reference=place.name,
        layout=found.layout,
        parameters=found.parameter_count,
        size_bytes=found.size_bytes,
        tensors=[_tensor(one) for one in found.tensors],
        tensor=found.tensor,
        stages=found.stages,
        parameters_by_part=dict(found.parameters),
        values_by_dtype=dict(found.dtypes),
        files=[
            converter_pb2.FileInfo(name=one.name, size_bytes=one.size_bytes, sha256=one.sha256 or "")
            for one in found.files
        ],
        unknown=found.unknown,
        differing_copies=found.differing,
    )
    if found.step is not None:
        response.step = found.step
    json_format.ParseDict(dict(found.config), response.config)
    return response


def _tensor(one: "TensorFacts") -> converter_pb2.TensorInfo:
    message = converter_pb2.TensorInfo(
        name=one.name, shape=one.shape, dtype=one.dtype, file=one.file, parameters=one.parameters
    )
    told = one.statistics
    if told is not None:
        message.statistics.CopyFrom(
            converter_pb2.TensorStatistics(
                minimum=told.smallest,
                maximum=told.largest,
                mean=told.mean,
                standard_deviation=told.deviation,
                zeros=told.zeros,
                nans=told.nans,
                infinities=told.infinities,
            )
        )
    return message
