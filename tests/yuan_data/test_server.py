"""The data service's calls, over gRPC to a process of its own, and `yuan data`, which asks it or reads files itself."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from tests.small_stack import SmallStack
from tests.tiny_models import VOCABULARY

from yuan_cli.app import run
from yuan_corpus import CorpusError, DatasetStatistics, PackedDataset, Tokenizer, open_dataset
from yuan_events import InputError
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


def test_details_say_how_long_documents_are_and_in_which_languages(
    stack: SmallStack, stub: data_pb2_grpc.DataServiceStub
) -> None:
    lengths = open_dataset(stack.store.open_artifact("small", "dataset").path).lengths
    assert not stub.DescribeDataset(data_pb2.DescribeDatasetRequest(dataset="small")).HasField("details")
    details = stub.DescribeDataset(data_pb2.DescribeDatasetRequest(dataset="small", details=True)).details

    assert (details.shortest, details.longest) == (lengths.min(), lengths.max())
    assert details.mean == pytest.approx(lengths.mean())
    for bucket in details.lengths:
        inside = lengths[(lengths >= bucket.first) & (lengths <= bucket.last)]
        assert (bucket.documents, bucket.tokens) == (len(inside), inside.sum())
    assert sum(bucket.documents for bucket in details.lengths) == len(lengths)
    assert sum(share.documents for share in details.languages) == min(200, len(lengths))
    assert [Path(source).name for source in details.sources] == ["text.txt"]


def test_packed_samples_are_those_that_training_reads(stack: SmallStack, stub: data_pb2_grpc.DataServiceStub) -> None:
    dataset = open_dataset(stack.store.open_artifact("small", "dataset").path)
    tokenizer = Tokenizer.load(stack.store.open_artifact("small", "tokenizer").path)
    request = data_pb2.SampleDatasetRequest(dataset="small", count=3, seed=5, packed=True, sequence_length=40)
    packed = PackedDataset(dataset, range(len(dataset)), 3, 40, 5)
    samples = list(stub.SampleDataset(request))

    assert len(samples) == 3
    for index, sample in enumerate(samples):
        assert list(sample.token_ids) == packed[index].tolist()
        assert [(part.document, part.offset, part.length) for part in sample.parts] == packed.pieces(index)
        assert list(sample.pieces) == [tokenizer.piece(token) for token in sample.token_ids]
        assert list(sample.in_loss) == [False] + [True] * 40


# --- yuan data ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(stack: SmallStack, connection: Connection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of a machine that has no registry and must ask the server."""
    del connection  # the server is up
    path = tmp_path_factory.mktemp("elsewhere") / "cluster.yaml"
    token = stack.manifest.cluster.security.token_file
    text = re.sub(r"home: .*", f"home: {path.parent}/home", stack.file.read_text())
    path.write_text(f"{text}  security: {{token_file: {token}}}\n")
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["data", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "small"),
        ("show", "dataset/small@1", "--json"),
        ("sample", "small", "--n", "2"),
        ("sample", "small", "--packed", "--sequence-length", "20", "--json"),
    ],
)
def test_a_dataset_looks_the_same_from_here_and_from_elsewhere(
    stack: SmallStack, elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    here = printed(capsys, *arguments, "-f", str(stack.file))

    assert here == printed(capsys, *arguments, "-f", str(elsewhere))
    assert len(here) > 100


def test_show_prints_counts_lengths_languages_and_documents(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics = DatasetStatistics.read(stack.store.open_artifact("small", "dataset").path)
    out = printed(capsys, "show", "small", "-f", str(stack.file))

    for words in (
        "dataset/small@1",
        f"{statistics.documents:,}",
        f"{statistics.tokens:,}",
        "tokenizer/small@1",
        "text.txt",
        "lengths: ",
        "languages (of ",
        "── document ",
    ):
        assert words in out
    table = json.loads(printed(capsys, "show", "small", "--json", "-f", str(stack.file)))
    assert table["statistics"]["documents"] == sum(bucket["documents"] for bucket in table["lengths"])


def test_packed_samples_show_tokens_documents_and_what_counts(
    stack: SmallStack, capsys: pytest.CaptureFixture[str]
) -> None:
    out = printed(capsys, "sample", "small", "--packed", "-n", "1", "--sequence-length", "50", "-f", str(stack.file))
    (one,) = printed(
        capsys, "sample", "small", "--packed", "-n", "1", "--sequence-length", "50", "--json", "-f", str(stack.file)
    ).splitlines()
    sample = json.loads(one)

    assert out.startswith(f"══ sample 0: 51 tokens of {len(sample['parts'])} documents, 50 in the loss\n")
    for part in sample["parts"]:
        last = part["offset"] + part["length"] - 1
        assert f"── document {part['document']:,}, tokens {part['offset']:,} to {last:,}\n" in out
    assert out.count("[-") == 1  # the first token, which nothing predicts


def test_a_report_is_one_page_with_charts_that_needs_no_network(
    stack: SmallStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    assert printed(capsys, "report", "small", "--output", str(path), "-f", str(stack.file)) == f"{path}\n"
    page = path.read_text(encoding="utf-8")

    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == page.count("</svg>") >= 3
    assert not re.search(r"<script|<link|src=|href=|@import|url\(", page)
    assert set(re.findall(r"https?://[^'\" >]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert list(tmp_path.iterdir()) == [path]
    longer = ("--sequence-length", "60000")  # than the dataset: the page shows what there is
    printed(capsys, "report", "small", *longer, "--output", str(path), "-f", str(stack.file))
    assert "Packed samples" in path.read_text(encoding="utf-8")
    with pytest.raises(InputError, match=r"--output .*: cannot be written"):
        run(["data", "report", "small", "--output", str(tmp_path / "no" / "page.html"), "-f", str(stack.file)])


def test_a_folder_of_bin_and_idx_can_be_looked_at(stack: SmallStack, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stack.store.open_artifact("small", "dataset").path
    tokenizer = str(stack.store.open_artifact("small", "tokenizer").path)
    bare = printed(capsys, "show", str(folder))

    assert "lengths: " in bare
    assert "── document" not in bare
    assert "── document" in printed(capsys, "show", str(folder), "--tokenizer", tokenizer)
    assert "══ sample 0" in printed(capsys, "sample", f"{folder}/part-00000", "--packed", "--tokenizer", tokenizer)
    with pytest.raises(CorpusError, match="name the tokenizer that cut it with --tokenizer"):
        run(["data", "sample", str(folder)])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("shwo", "small"), "yuan data: no command 'shwo'; did you mean show?"),
        (("show", "nothing"), "does not exist"),
        (("show", "no/where"), "no such file"),
        (("show", "small", "--tokenizer", "x"), "--tokenizer: an artifact names its own"),
        (("sample", "small", "--n", "0"), "--n"),
        (("sample", "small", "--packed", "--sequence-length", "60000"), "60001 tokens"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(stack: SmallStack, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as caught:
        run(["-f", str(stack.file), "data", *arguments])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
