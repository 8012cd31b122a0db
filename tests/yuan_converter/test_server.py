"""The converter service's call, over gRPC to a process of its own."""

from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from tests.small_stack import SmallStack
from tests.tiny_models import VOCABULARY

from yuan_model import ModelFolder
from yuan_rpc import RpcRefused
from yuan_rpc.converter.v1 import converter_pb2, converter_pb2_grpc


def test_a_model_is_inspected_and_one_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    stack = SmallStack(tmp_path)
    folder = ModelFolder(stack.store.open_artifact("small", "model").path)
    with stack.serving("converter") as connection:
        stub = connection.stub(converter_pb2_grpc.ConverterServiceStub)
        said = stub.InspectCheckpoint(converter_pb2.InspectCheckpointRequest(model="small"))
        assert (said.reference, said.layout) == ("model/small@1", "native")
        assert said.parameters == folder.config.parameter_count()
        assert said.size_bytes == sum(file.stat().st_size for file in folder.files)
        assert json_format.MessageToDict(said.config)["vocab_size"] == VOCABULARY
        shapes = {tensor.name: (list(tensor.shape), tensor.dtype) for tensor in said.tensors}
        assert shapes == {name: (list(tensor.shape), "F32") for name, tensor in folder.tensors()}
        assert {tensor.file for tensor in said.tensors} <= {file.name for file in folder.files}
        told = stub.InspectCheckpoint(converter_pb2.InspectCheckpointRequest(model=str(folder.path), values=True))
        assert (told.layout, list(told.stages), told.tensor) == ("native", [folder.config.num_hidden_layers], 1)
        assert sum(told.parameters_by_part.values()) == told.parameters
        assert all(len(file.sha256) == 64 for file in told.files)
        norm = next(one for one in told.tensors if one.name == "model.norm.weight")
        assert norm.statistics.maximum == float(folder.tensor("model.norm.weight").max())
        request = converter_pb2.DiffCheckpointsRequest(first="small", second=str(folder.path))
        compared = list(stub.DiffCheckpoints(request))
        assert [one.name for one in compared] == folder.names
        assert all(one.same for one in compared)
        with pytest.raises(RpcRefused, match="no such folder"), connection.errors():
            stub.InspectCheckpoint(converter_pb2.InspectCheckpointRequest(model="/nowhere"))
        with pytest.raises(RpcRefused, match="does not exist") as caught, connection.errors():
            stub.InspectCheckpoint(converter_pb2.InspectCheckpointRequest(model="nothing"))
        assert caught.value.code == grpc.StatusCode.NOT_FOUND
        assert caught.value.resource == ("model", "model/nothing")
