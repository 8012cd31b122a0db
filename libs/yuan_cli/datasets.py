"""`yuan data`: a dataset of the registry here, of a stack's data service, or of a folder; printed or as a page."""

import json
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import typer

from yuan_cli.artifacts import client_of
from yuan_cli.facts import labelled
from yuan_corpus import CorpusError, ShardedDataset, Tokenizer, open_dataset
from yuan_corpus.dataset_page import dataset_page, readable, reasons_of
from yuan_corpus.dataset_view import (
    Details,
    LanguageShare,
    LengthBucket,
    ShownDocument,
    ShownSample,
    describe,
    show_documents,
    show_samples,
)
from yuan_corpus.packing import Piece
from yuan_corpus.statistics import STATISTICS_FILE_NAME, DatasetStatistics
from yuan_events import InputError, WorkFailed
from yuan_events.printing import counted, without_controls
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_jobs.messages import plain_of
from yuan_jobs.references import ArtifactKind
from yuan_manifest import load_cluster
from yuan_rpc import Connection, connect
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc
from yuan_stack.tables import aligned

_SHOWN_DOCUMENTS, _SHOWN_TOKENS = 3, 96
_PAGE_DOCUMENTS, _PAGE_SAMPLES, _PAGE_TOKENS = 10, 3, 512
_BAR = 40
_SHOWN_CHARACTERS = 72
"""Of a document that a stage dropped."""
_CALL_SECONDS = 120.0


@dataclass(frozen=True)
class Wanted:
    """What is to be shown: how many, drawn how, and how much of each."""

    count: int
    seed: int = 0
    max_tokens: int = 256
    sequence_length: int = 256
    packed: bool = False


@dataclass(frozen=True)
class Header:
    """What is known of a dataset without looking into it.

    Attributes:
        name: of it, for people.
        documents: how many.
        tokens: how many.
        facts: rows to print.
        plain: the same for programs.
    """

    name: str
    documents: int
    tokens: int
    facts: Mapping[str, str]
    plain: Mapping[str, Any] = field(default_factory=dict[str, Any])


class View(Protocol):
    """A dataset, wherever it is."""

    @property
    def has_text(self) -> bool:
        """Whether its tokenizer is known and it is not empty."""
        ...

    def header(self) -> Header:
        """Returns what is known of it."""
        ...

    def details(self) -> Details:
        """Returns what it looks like."""
        ...

    def documents(self, wanted: Wanted) -> Iterator[ShownDocument]:
        """Yields some of its documents."""
        ...

    def samples(self, wanted: Wanted) -> Iterator[ShownSample]:
        """Yields some of the samples that training would read."""
        ...


def print_dataset(name: str, cluster: Path | None, tokenizer: Path | None, *, as_json: bool) -> int:
    """Prints what is in a dataset."""
    with _opened(name, cluster, tokenizer) as view:
        header, details = view.header(), view.details()
        if as_json:
            table = {**header.plain, **asdict(details)}
            typer.echo(json.dumps(table, indent=2, ensure_ascii=False, sort_keys=True))
            return 0
        typer.echo(header.name)
        _echo(aligned((), [*header.facts.items(), *labelled("sources", details.sources)]), "  ")
        _print_details(details)
        if view.has_text:
            total = sum(bucket.documents for bucket in details.lengths)
            some = f"{_SHOWN_DOCUMENTS} of {total:,}, drawn at random; yuan data sample shows more"
            typer.echo(f"documents ({some if total > _SHOWN_DOCUMENTS else 'all'})")
            for shown in view.documents(Wanted(_SHOWN_DOCUMENTS, max_tokens=_SHOWN_TOKENS)):
                _print_document(shown)
    return 0


def _print_details(details: Details) -> None:
    if details.lengths:
        middle = f"median {details.median:,}, mean {details.mean:,.1f}"
        typer.echo(f"lengths: {details.shortest:,} to {details.longest:,} tokens, {middle}")
        most = max(bucket.documents for bucket in details.lengths)
        rows = [
            (
                f"{bucket.first:,}-{bucket.last:,}",
                f"{bucket.documents:,}",
                f"{bucket.tokens:,}",
                "█" * round(_BAR * bucket.documents / most),
            )
            for bucket in details.lengths
        ]
        _echo(aligned(("tokens", "documents", "in all", ""), rows, right=("tokens", "documents", "in all")), "  ")
    if details.languages:
        total = sum(share.tokens for share in details.languages)
        looked_at = sum(share.documents for share in details.languages)
        whole = looked_at == sum(bucket.documents for bucket in details.lengths)
        of = "all documents" if whole else f"{looked_at:,} documents drawn at random"
        typer.echo(f"languages (of {of})")
        rows = [
            (share.language, f"{share.documents:,}", f"{share.tokens / max(1, total):.1%}")
            for share in details.languages
        ]
        _echo(aligned(("language", "documents", "of tokens"), rows, right=("documents", "of tokens")), "  ")
    stages: list[dict[str, Any]] = details.cleaning.get("stages", [])
    if details.cleaning:
        read, skipped = int(details.cleaning["documents_read"]), int(details.cleaning["skipped"])
        title = "cleaning" if stages else "reading"
        typer.echo(f"{title}: {counted(read, 'document')} read, {skipped:,} broken ones left out")
    if stages:
        rows = [
            (
                stage["stage"],
                *(f"{int(stage[key]):,}" for key in ("documents", "dropped", "changed")),
                ", ".join(f"{reason} {int(count):,}" for reason, count in reasons_of(stage)[:4]),
            )
            for stage in stages
        ]
        numbers = ("documents", "dropped", "changed")
        _echo(aligned(("stage", *numbers, "reasons"), rows, right=numbers), "  ")
        for stage in stages:
            for sample in stage["dropped_samples"][:1]:
                text = " ".join(sample.get("text", "").split())[:_SHOWN_CHARACTERS]
                typer.echo(f"  {stage['stage']} dropped ({sample['reason']}): {text}")


def print_samples(name: str, cluster: Path | None, tokenizer: Path | None, wanted: Wanted, *, as_json: bool) -> int:
    """Prints documents, or packed samples."""
    with _opened(name, cluster, tokenizer) as view:
        if not view.header().documents:
            raise InputError(f"{name}: has no documents")
        shown = view.samples(wanted) if wanted.packed else view.documents(wanted)
        for number, one in enumerate(shown):
            if as_json:
                typer.echo(json.dumps(_plain(one), ensure_ascii=False))
            elif isinstance(one, ShownSample):
                _print_sample(number, one)
            else:
                _print_document(one)
    return 0


def write_report(  # noqa: PLR0917
    name: str, cluster: Path | None, tokenizer: Path | None, output: Path | None, sequence_length: int, seed: int
) -> int:
    """Writes the page of a dataset and prints where it is."""
    with _opened(name, cluster, tokenizer) as view:
        header = view.header()
        short = header.name.rpartition("/")[2].replace("@", "-")
        path = output or Path(f"{short}.html")
        wanted = Wanted(_PAGE_DOCUMENTS, seed, _PAGE_TOKENS, sequence_length)
        samples: list[ShownSample] = []
        documents: list[ShownDocument] = []
        if view.has_text:
            documents = list(view.documents(wanted))
            # A page shows what there is, also of a dataset that has less than one sample of that length.
            length = min(sequence_length, header.tokens - 1)
            samples = list(view.samples(Wanted(_PAGE_SAMPLES, seed, sequence_length=length))) if length else []
        details = view.details()
        facts = dict(header.facts) | ({"sources": ", ".join(details.sources)} if details.sources else {})
        page = dataset_page(header.name, facts, details, documents, samples)
    try:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError):
            raise InputError(f"--output {path}: cannot be written ({error.strerror})") from None
        raise WorkFailed(f"--output {path}: cannot be written ({error.strerror})") from error
    typer.echo(str(path))
    return 0


# --- where datasets are -------------------------------------------------------------------------------------------


@contextmanager
def _opened(name: str, cluster_path: Path | None, tokenizer: Path | None) -> Generator[View, None, None]:
    """Opens a dataset: a path, an artifact of the registry here, or one that the data service has.

    Raises:
        YuanError: if there is none.
    """
    if "/" in name.removeprefix(f"{ArtifactKind.dataset}/"):
        yield _folder(Path(name).expanduser(), tokenizer)
        return
    if tokenizer is not None:
        raise InputError("--tokenizer: an artifact names its own; only a path of a dataset needs one")
    cluster = load_cluster(cluster_path).cluster
    if client_of(cluster) is None:
        store = ArtifactStore.open(Home.of(cluster))
        try:
            yield _artifact(store, name)
        finally:
            store.registry.close()
        return
    with connect("data", cluster, timeout=_CALL_SECONDS) as connection:
        yield RemoteView(connection, name)


def _artifact(store: ArtifactStore, name: str) -> "LocalView":
    handle = store.open_artifact(name, ArtifactKind.dataset)
    made_by: str = handle.metadata["inputs"]["tokenizer"]["artifact"]
    DatasetStatistics.read(handle.path)  # in one line, if it is damaged
    size = sum(int(file["size_bytes"]) for file in handle.metadata["files"])
    plain: dict[str, Any] = json.loads((handle.path / STATISTICS_FILE_NAME).read_text(encoding="utf-8"))
    header = _header(handle.reference, handle.digest, made_by, size, plain)
    tokenizer = Tokenizer.load(store.open_artifact(made_by, ArtifactKind.tokenizer).path)
    sources: list[str] = handle.metadata["recipe"]["inputs"]["text"]
    return LocalView(open_dataset(handle.path), handle.path, tokenizer, header, sources)


def _folder(path: Path, tokenizer: Path | None) -> "LocalView":
    dataset = open_dataset(path)
    folder = path if path.is_dir() else path.parent
    facts = {
        "documents": f"{len(dataset):,}",
        "tokens": f"{dataset.token_count:,}",
        "shards": f"{len(dataset.shards):,}",
        "stored as": dataset.dtype.name,
    }
    plain = {
        "dataset": str(path),
        "documents": len(dataset),
        "tokens": dataset.token_count,
        "dtype": dataset.dtype.name,
    }
    header = Header(str(path), len(dataset), dataset.token_count, facts, plain)
    return LocalView(dataset, folder, Tokenizer.load(tokenizer) if tokenizer else None, header, ())


def _header(reference: str, digest: str, tokenizer: str, size: int, statistics: Mapping[str, Any]) -> Header:
    documents, tokens = int(statistics["documents"]), int(statistics["tokens"])
    text, source = int(statistics["text_bytes"]), int(statistics["source_bytes"])
    facts = {
        "documents": f"{documents:,}",
        "tokens": f"{tokens:,}",
        "text": f"{text / 1e6:,.1f} MB, {float(statistics['bytes_per_token']):.2f} bytes a token",
        "read from": f"{counted(int(statistics['files']), 'file')}, {source / 1e6:,.1f} MB",
        "stored as": f"{statistics['dtype']}, {counted(len(statistics['shards']), 'shard')}, {size / 1e6:,.1f} MB",
        "tokenizer": f"{tokenizer}, {int(statistics['vocab_size']):,} ids",
        "digest": digest,
    }
    plain = {
        "dataset": reference,
        "digest": digest,
        "tokenizer": tokenizer,
        "size_bytes": size,
        "statistics": statistics,
    }
    return Header(reference, documents, tokens, facts, plain)


@dataclass(frozen=True)
class LocalView:
    """A dataset whose files are here."""

    dataset: ShardedDataset
    folder: Path
    tokenizer: Tokenizer | None
    known: Header
    sources: Sequence[str]

    @property
    def has_text(self) -> bool:
        """Whether its tokenizer is known and it is not empty."""
        return self.tokenizer is not None and len(self.dataset) > 0

    def header(self) -> Header:
        """Returns what is known of it."""
        return self.known

    def details(self) -> Details:
        """Returns what it looks like."""
        return describe(self.dataset, self.folder, self.tokenizer, self.sources)

    def documents(self, wanted: Wanted) -> Iterator[ShownDocument]:
        """Yields some of its documents."""
        if self.tokenizer is None:
            raise CorpusError(f"{self.known.name}: name the tokenizer that cut it with --tokenizer to see its text")
        yield from show_documents(self.dataset, self.tokenizer, wanted.count, wanted.seed, wanted.max_tokens)

    def samples(self, wanted: Wanted) -> Iterator[ShownSample]:
        """Yields some of its samples."""
        if self.tokenizer is None:
            raise CorpusError(f"{self.known.name}: name the tokenizer that cut it with --tokenizer to see its samples")
        yield from show_samples(self.dataset, self.tokenizer, wanted.count, wanted.seed, wanted.sequence_length)


@dataclass(frozen=True)
class RemoteView:
    """A dataset that a stack's data service has."""

    connection: Connection
    name: str

    @property
    def has_text(self) -> bool:
        """Whether its tokenizer is known and it is not empty: no empty one is made."""
        return True

    @property
    def _stub(self) -> data_pb2_grpc.DataServiceStub:
        return self.connection.stub(data_pb2_grpc.DataServiceStub)

    def _described(self, *, details: bool) -> data_pb2.DescribeDatasetResponse:
        with self.connection.errors(_CALL_SECONDS):
            return self._stub.DescribeDataset(data_pb2.DescribeDatasetRequest(dataset=self.name, details=details))

    def header(self) -> Header:
        """Returns what is known of it."""
        said = self._described(details=False)
        return _header(said.reference, said.digest, said.tokenizer, said.size_bytes, plain_of(said.statistics))

    def details(self) -> Details:
        """Returns what it looks like."""
        said = self._described(details=True).details
        return Details(
            list(said.sources), said.shortest, said.median, said.mean, said.longest,
            [LengthBucket(one.first, one.last, one.documents, one.tokens) for one in said.lengths],
            [LanguageShare(one.language, one.documents, one.tokens) for one in said.languages],
            plain_of(said.cleaning),
        )  # fmt: skip

    def documents(self, wanted: Wanted) -> Iterator[ShownDocument]:
        """Yields some of its documents."""
        for said in self._sampled(wanted, packed=False):
            yield ShownDocument(said.document, list(said.token_ids), list(said.pieces), said.text, said.tokens)

    def samples(self, wanted: Wanted) -> Iterator[ShownSample]:
        """Yields some of its samples."""
        for said in self._sampled(wanted, packed=True):
            parts = [Piece(part.document, part.offset, part.length) for part in said.parts]
            yield ShownSample(parts, list(said.token_ids), list(said.pieces), said.text, list(said.in_loss))

    def _sampled(self, wanted: Wanted, *, packed: bool) -> Iterator[data_pb2.SampleDatasetResponse]:
        request = data_pb2.SampleDatasetRequest(
            dataset=self.name, count=wanted.count, seed=wanted.seed, max_tokens=wanted.max_tokens,
            packed=packed, sequence_length=wanted.sequence_length,
        )  # fmt: skip
        with self.connection.errors(_CALL_SECONDS):
            yield from self._stub.SampleDataset(request)


# --- printing -----------------------------------------------------------------------------------------------------


def _echo(lines: Sequence[str], indent: str) -> None:
    for line in lines:
        typer.echo(indent + line)


def _plain(shown: ShownDocument | ShownSample) -> dict[str, Any]:
    table = asdict(shown)
    if isinstance(shown, ShownSample):
        table["parts"] = [part._asdict() for part in shown.parts]
    return table


def _print_document(shown: ShownDocument) -> None:
    cut = f", the first {len(shown.ids):,} shown" if len(shown.ids) < shown.tokens else ""
    typer.echo(_styled(f"── document {shown.document:,}: {shown.tokens:,} tokens{cut}", bold=True))
    typer.echo(without_controls(shown.text))


def _print_sample(number: int, shown: ShownSample) -> None:
    """Prints tokens, in colours where the terminal has them; else parted by |, those outside the loss in [- -]."""
    counted = sum(shown.in_loss)
    heading = (
        f"══ sample {number}: {len(shown.ids):,} tokens of {len(shown.parts):,} documents, {counted:,} in the loss"
    )
    typer.echo(_styled(heading, bold=True))
    position = 0
    for part in shown.parts:
        told = f"── document {part.document:,}, tokens {part.offset:,} to {part.offset + part.length - 1:,}"
        typer.echo(_styled(told, bold=True))
        places = range(position, position + part.length)
        typer.echo(_tokens([(shown.pieces[place], shown.in_loss[place]) for place in places]))
        position += part.length


def _tokens(tokens: Sequence[tuple[str, bool]]) -> str:
    if _coloured():
        return "".join(
            _styled(_shown(piece), fg="cyan" if place % 2 else "green") if counts else _styled(_shown(piece), dim=True)
            for place, (piece, counts) in enumerate(tokens)
        )
    return "|".join(_shown(piece) if counts else f"[-{_shown(piece)}-]" for piece, counts in tokens)


def _shown(piece: str) -> str:
    return without_controls(readable(piece))


def _styled(text: str, **style: Any) -> str:
    # Line ends stay outside of the colours, which some terminals would else draw to their edge.
    return "\n".join(typer.style(line, **style) if line else line for line in text.split("\n")) if _coloured() else text


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
