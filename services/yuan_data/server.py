"""The data service's own calls: what is in a dataset, some of its documents, and tokenizers at work.

Thin: artifacts come from the store, what is read from them from `yuan_corpus`. Making them is a job. All of it blocks
on files, so every call does its work in a thread.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from yuan_corpus import DatasetStatistics, ShardedDataset, Tokenizer, TokenizerError, open_dataset
from yuan_corpus.dataset_view import Details, ShownDocument, ShownSample, describe, show_documents, show_samples
from yuan_corpus.special_tokens import EOD
from yuan_corpus.statistics import STATISTICS_FILE_NAME
from yuan_jobs import ArtifactHandle
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.serving import ServerContext
from yuan_manifest.rules import LARGEST_SHUFFLE_SEED
from yuan_rpc import FailedPrecondition, InvalidArgument, Mount
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc

SERVICE = "yuan.data.v1.DataService"

DEFAULT_DOCUMENTS, MOST_DOCUMENTS = 5, 1000
DEFAULT_TOKENS, MOST_TOKENS = 256, 65_536
MOST_TEXT_BYTES = 16 * 1024 * 1024
"""Bounds of one call: what it holds in memory, and how long it keeps a thread."""


def mounts(context: ServerContext) -> Sequence[Mount]:
    """Returns what the data server serves beside jobs."""
    return [Mount(data_pb2_grpc.add_DataServiceServicer_to_server, DataServicer(context.store), SERVICE)]


class DataServicer(data_pb2_grpc.DataServiceServicer):
    """Answers questions on datasets and tokenizers of one store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def DescribeDataset(  # noqa: N802 - the proto's name
        self, request: data_pb2.DescribeDatasetRequest, context: Any
    ) -> data_pb2.DescribeDatasetResponse:
        """Returns what a trainer must know of a dataset before it starts."""
        del context
        return await asyncio.to_thread(self._describe, request.dataset, request.details)

    async def SampleDataset(  # noqa: N802
        self, request: data_pb2.SampleDatasetRequest, context: Any
    ) -> AsyncIterator[data_pb2.SampleDatasetResponse]:
        """Streams documents drawn at random, in their order in the dataset, or samples as training reads them."""
        del context
        count = _bounded("count", request.count, DEFAULT_DOCUMENTS, MOST_DOCUMENTS)
        most = _bounded("max_tokens", request.max_tokens, DEFAULT_TOKENS, MOST_TOKENS)
        length = _bounded("sequence_length", request.sequence_length, DEFAULT_TOKENS, MOST_TOKENS)
        dataset, tokenizer = await asyncio.to_thread(self._open_dataset, request.dataset)
        if request.packed:
            if request.seed > LARGEST_SHUFFLE_SEED:
                problem = f"{request.seed} is not from 0 to {LARGEST_SHUFFLE_SEED}"
                raise InvalidArgument(f"seed: {problem}", {"seed": problem})
            shown = (_sample(sample) for sample in show_samples(dataset, tokenizer, count, request.seed, length))
        else:
            shown = (_document(found) for found in show_documents(dataset, tokenizer, count, request.seed, most))
        while (response := await asyncio.to_thread(next, shown, None)) is not None:
            yield response

    async def Tokenize(  # noqa: N802
        self, request: data_pb2.TokenizeRequest, context: Any
    ) -> data_pb2.TokenizeResponse:
        """Turns text into token ids."""
        del context
        if (size := len(request.text.encode())) > MOST_TEXT_BYTES:
            problem = f"{size} bytes; at most {MOST_TEXT_BYTES} in one call"
            raise InvalidArgument(f"text: {problem}", {"text": problem})
        return await asyncio.to_thread(self._tokenize, request.tokenizer, request.text)

    async def Detokenize(  # noqa: N802
        self, request: data_pb2.DetokenizeRequest, context: Any
    ) -> data_pb2.DetokenizeResponse:
        """Turns token ids into text."""
        del context
        return await asyncio.to_thread(self._detokenize, request.tokenizer, request.token_ids)

    def _describe(self, reference: str, with_details: bool) -> data_pb2.DescribeDatasetResponse:
        handle = self._artifact("dataset", reference)
        statistics = DatasetStatistics.read(handle.path)
        made_by = handle.metadata["inputs"]["tokenizer"]
        table: dict[str, Any] = json.loads((handle.path / STATISTICS_FILE_NAME).read_text(encoding="utf-8"))
        response = data_pb2.DescribeDatasetResponse(
            reference=handle.reference,
            digest=handle.digest,
            tokenizer=made_by["artifact"],
            tokenizer_digest=made_by["digest"],
            documents=statistics.documents,
            tokens=statistics.tokens,
            size_bytes=sum(file["size_bytes"] for file in handle.metadata["files"]),
            vocab_size=statistics.vocab_size,
            eod_token_id=statistics.special_ids[EOD],
        )
        json_format.ParseDict(table, response.statistics)
        if with_details:
            tokenizer = _tokenizer(self._artifact("tokenizer", made_by["artifact"]))
            sources: list[str] = handle.metadata["recipe"]["inputs"]["text"]
            _put(describe(open_dataset(handle.path), handle.path, tokenizer, sources), response.details)
        return response

    def _open_dataset(self, reference: str) -> tuple[ShardedDataset, Tokenizer]:
        handle = self._artifact("dataset", reference)
        dataset = open_dataset(handle.path)
        if not len(dataset):
            raise FailedPrecondition(f"{handle.reference} has no documents")
        made_by = handle.metadata["inputs"]["tokenizer"]["artifact"]
        return dataset, _tokenizer(self._artifact("tokenizer", made_by))

    def _tokenize(self, reference: str, text: str) -> data_pb2.TokenizeResponse:
        tokenizer = _tokenizer(self._artifact("tokenizer", reference))
        ids = tokenizer.encode(text)
        return data_pb2.TokenizeResponse(token_ids=ids, pieces=[tokenizer.piece(token) for token in ids])

    def _detokenize(self, reference: str, token_ids: Sequence[int]) -> data_pb2.DetokenizeResponse:
        tokenizer = _tokenizer(self._artifact("tokenizer", reference))
        try:
            return data_pb2.DetokenizeResponse(text=tokenizer.decode(token_ids))
        except TokenizerError as error:
            raise InvalidArgument(f"token_ids: {error}", {"token_ids": str(error)}) from error

    def _artifact(self, kind: str, reference: str) -> ArtifactHandle:
        if not reference:
            raise InvalidArgument(f"{kind}: empty; expected [{kind}/]NAME[@VERSION]", {kind: "empty"})
        return self._store.open_artifact(reference, kind)


def _tokenizer(handle: ArtifactHandle) -> Tokenizer:
    return _loaded(handle.path)


@lru_cache(maxsize=8)
def _loaded(folder: Path) -> Tokenizer:
    """Loads a tokenizer; published folders never change, and reading one takes longer than using it."""
    return Tokenizer.load(folder)


def _document(shown: ShownDocument) -> data_pb2.SampleDatasetResponse:
    return data_pb2.SampleDatasetResponse(
        document=shown.document, token_ids=shown.ids, text=shown.text, tokens=shown.tokens, pieces=shown.pieces
    )


def _sample(shown: ShownSample) -> data_pb2.SampleDatasetResponse:
    parts = [
        data_pb2.SamplePart(document=part.document, offset=part.offset, length=part.length) for part in shown.parts
    ]
    return data_pb2.SampleDatasetResponse(
        document=shown.parts[0].document, token_ids=shown.ids, text=shown.text, tokens=len(shown.ids),
        pieces=shown.pieces, parts=parts, in_loss=shown.in_loss,
    )  # fmt: skip


def _put(details: Details, message: data_pb2.DatasetDetails) -> None:
    message.sources.extend(details.sources)
    message.shortest, message.median, message.longest = details.shortest, details.median, details.longest
    message.mean = details.mean
    message.lengths.extend(data_pb2.LengthBucket(**asdict(bucket)) for bucket in details.lengths)
    message.languages.extend(data_pb2.LanguageShare(**asdict(share)) for share in details.languages)
    json_format.ParseDict(dict(details.cleaning), message.cleaning)


def _bounded(field: str, value: int, default: int, most: int) -> int:
    """Returns a request's number, or its default for 0.

    Raises:
        InvalidArgument: if it is negative or too large.
    """
    if not 0 <= value <= most:
        problem = f"{value} is not from 1 to {most} (0: {default})"
        raise InvalidArgument(f"{field}: {problem}", {field: problem})
    return value or default
