"""The data service's calls, over gRPC to a process of its own."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import json_format
from tests.small_stack import SmallStack
from tests.tiny_models import VOCABULARY

from yuan_corpus import DatasetStatistics, Tokenizer, open_dataset
from yuan_rpc import Connection, RpcFailed, RpcRefused
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> SmallStack:
    return SmallStack(tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="module")
def connection(stack: SmallStack) -> Iterator[Connection]:
    with stack.serving("data") as connection:
        yield connection


@pytest.fixture(scope="module")
def stub(connection: Connection) -> data_pb2_grpc.DataServiceStub:
    return connection.stub(data_pb2_grpc.DataServiceStub)


def test_a_dataset_is_described_as_a_trainer_must_know_it(
    stack: SmallStack, stub: data_pb2_grpc.DataServiceStub
) -> None:
    dataset = stack.store.open_artifact("small", "dataset")
    tokenizer = stack.store.open_artifact("small", "tokenizer")
    statistics = DatasetStatistics.read(dataset.path)
    said = stub.DescribeDataset(data_pb2.DescribeDatasetRequest(dataset="small"))
    assert (said.reference, said.digest) == ("dataset/small@1", dataset.digest)
    assert (said.tokenizer, said.tokenizer_digest) == ("tokenizer/small@1", tokenizer.digest)
    assert (said.documents, said.tokens) == (statistics.documents, statistics.tokens)
    assert (said.vocab_size, said.eod_token_id) == (VOCABULARY, Tokenizer.load(tokenizer.path).eod_id)
    assert said.size_bytes == sum(
        file.stat().st_size for file in dataset.path.iterdir() if file.name != "artifact.json"
    )
    assert json_format.MessageToDict(said.statistics)["shards"][0]["documents"] == statistics.documents


def test_samples_are_documents_of_the_dataset_and_the_same_for_the_same_seed(
    stack: SmallStack, stub: data_pb2_grpc.DataServiceStub
) -> None:
    dataset = open_dataset(stack.store.open_artifact("small", "dataset").path)
    tokenizer = Tokenizer.load(stack.store.open_artifact("small", "tokenizer").path)
    request = data_pb2.SampleDatasetRequest(dataset="small", count=7, seed=3, max_tokens=5)
    samples = list(stub.SampleDataset(request))
    assert len({sample.document for sample in samples}) == 7
    for sample in samples:
        assert list(sample.token_ids) == dataset[sample.document][:5].tolist()
        assert sample.text == tokenizer.decode(sample.token_ids)
        assert sample.tokens == len(dataset[sample.document])
    assert list(stub.SampleDataset(request)) == samples
    request.seed = 4
    assert list(stub.SampleDataset(request)) != samples
    assert len(list(stub.SampleDataset(data_pb2.SampleDatasetRequest(dataset="small")))) == 5
    everything = data_pb2.SampleDatasetRequest(dataset="small", count=1000)
    assert [sample.document for sample in stub.SampleDataset(everything)] == list(range(len(dataset)))


def test_text_becomes_ids_and_pieces_and_text_again(stub: data_pb2_grpc.DataServiceStub) -> None:
    text = "shall I compare 你好<eod>"
    made = stub.Tokenize(data_pb2.TokenizeRequest(tokenizer="small", text=text))
    assert len(made.token_ids) == len(made.pieces) > 0
    assert made.pieces[-1] == "<eod>"
    request = data_pb2.DetokenizeRequest(tokenizer="tokenizer/small@1", token_ids=made.token_ids)
    assert stub.Detokenize(request).text == text


@pytest.mark.parametrize(
    ("method", "request_", "resource"),
    [
        ("DescribeDataset", data_pb2.DescribeDatasetRequest(dataset="nothing"), ("dataset", "dataset/nothing")),
        ("DescribeDataset", data_pb2.DescribeDatasetRequest(dataset="small@9"), ("dataset", "dataset/small@9")),
        ("Tokenize", data_pb2.TokenizeRequest(tokenizer="nothing", text="a"), ("tokenizer", "tokenizer/nothing")),
    ],
)
def test_an_unknown_artifact_is_not_found_by_its_name(
    connection: Connection,
    stub: data_pb2_grpc.DataServiceStub,
    method: str,
    request_: object,
    resource: tuple[str, str],
) -> None:
    with pytest.raises(RpcRefused, match="does not exist") as caught, connection.errors():
        getattr(stub, method)(request_)
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert caught.value.resource == resource


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("DescribeDataset", data_pb2.DescribeDatasetRequest(), "dataset"),
        ("Detokenize", data_pb2.DetokenizeRequest(tokenizer="small", token_ids=[VOCABULARY]), "token_ids"),
        ("SampleDataset", data_pb2.SampleDatasetRequest(dataset="small", count=-1), "count"),
        ("SampleDataset", data_pb2.SampleDatasetRequest(dataset="small", max_tokens=10**6), "max_tokens"),
    ],
)
def test_a_wrong_field_is_named(
    connection: Connection, stub: data_pb2_grpc.DataServiceStub, method: str, request_: object, field: str
) -> None:
    call = getattr(stub, method)
    with pytest.raises(RpcFailed) as caught, connection.errors():
        list(call(request_)) if method == "SampleDataset" else call(request_)
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(caught.value.violations) == [field]
