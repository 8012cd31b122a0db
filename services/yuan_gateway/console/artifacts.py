"""Artifacts: what there is, one with its lineage as a picture, and datasets looked into through the data service."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from yuan_events import YuanError
from yuan_gateway.console.access import PATH, Somebody
from yuan_gateway.console.jobs import ordered_recipe
from yuan_gateway.console.pictures import Picture, lineage_picture
from yuan_gateway.console.shell import Console, console_of
from yuan_jobs.lineage import Lineage
from yuan_jobs.messages import plain_of
from yuan_manifest.yaml_source import dump_yaml
from yuan_rpc.data.v1 import data_pb2
from yuan_rpc.jobs.v1 import jobs_pb2

router = APIRouter(prefix=PATH, include_in_schema=False)

KINDS = ("tokenizer", "dataset", "model", "report")
_PAGE = 50
_MOST_ARTIFACTS = 120
_DOCUMENTS, _SAMPLES = 5, 2


@dataclass(frozen=True)
class ArtifactNode:
    """An artifact, as far as its lineage is concerned."""

    reference: str
    made_from: Mapping[str, str]
    used_by: Sequence[str]


@router.get("/artifacts")
async def artifacts_page(request: Request, visitor: Somebody, kind: str = "", page: str = "") -> Response:
    """Lists artifacts, newest first."""
    console = console_of(request)
    kind = kind if kind in KINDS else ""
    values: dict[str, Any] = {"kind": kind, "kinds": KINDS, "artifacts": [], "next": "", "page": page, "problem": ""}
    try:
        message = jobs_pb2.ListArtifactsRequest(kind=kind, page_size=_PAGE, page_token=page)
        reply = await console.stack.jobs("ListArtifacts", message, visitor.token)
        values |= {"artifacts": reply.artifacts, "next": reply.next_page_token}
    except YuanError as error:
        values["problem"] = str(error)
    return console.pages.answer(request, visitor, "artifacts.html", values, status=503 if values["problem"] else 200)


@router.get("/artifacts/{reference:path}")
async def artifact_page(request: Request, visitor: Somebody, reference: str) -> Response:
    """Shows an artifact: its facts, its lineage, what it is made of."""
    console = console_of(request)
    message = jobs_pb2.GetArtifactRequest(reference=reference)
    artifact = (await console.stack.jobs("GetArtifact", message, visitor.token)).artifact
    metadata = plain_of(artifact.metadata)
    picture, problem = Picture(), ""
    try:
        picture = await _lineage(console, visitor.token, artifact)
    except YuanError as error:
        problem = str(error)
    summary = metadata.get("summary") or {}
    values = {
        "artifact": artifact,
        "picture_of": picture,
        "problem": problem,
        "files": metadata.get("files") or [],
        "summary": [(key, value) for key, value in summary.items() if isinstance(value, str | int | float | bool)],
        "recipe": dump_yaml(ordered_recipe(metadata["recipe"])) if isinstance(metadata.get("recipe"), dict) else "",
    }
    return console.pages.answer(request, visitor, "artifact.html", values)


async def _lineage(console: Console, token: str | None, root: jobs_pb2.Artifact) -> Picture:
    """Draws all that an artifact was made from, and all that was made from it.

    Not `lineage_of`, which asks for one after the other: here all that are known by now are asked for at once.
    """

    async def node(reference: str) -> ArtifactNode:
        message = jobs_pb2.GetArtifactRequest(reference=reference)
        return _node((await console.stack.jobs("GetArtifact", message, token)).artifact)

    first = _node(root)
    found = {first.reference: first}
    for upwards in (True, False):
        waiting = _next(first, upwards=upwards)
        seen: set[str] = set()
        while waiting and len(found) < _MOST_ARTIFACTS:
            wanted = [one for one in dict.fromkeys(waiting) if one not in seen]
            seen.update(wanted)
            nodes = await asyncio.gather(*(node(one) for one in wanted if one not in found))
            found |= {one.reference: one for one in nodes}
            waiting = [after for one in wanted if one in found for after in _next(found[one], upwards=upwards)]
    return lineage_picture(Lineage(first.reference, found))


def _next(node: ArtifactNode, *, upwards: bool) -> list[str]:
    return list(node.made_from.values()) if upwards else list(node.used_by)


def _node(artifact: jobs_pb2.Artifact) -> ArtifactNode:
    inputs = plain_of(artifact.metadata).get("inputs") or {}
    made_from = {name: one["artifact"] for name, one in inputs.items() if isinstance(one, dict) and one.get("artifact")}
    return ArtifactNode(f"{artifact.kind}/{artifact.name}@{artifact.version}", made_from, list(artifact.used_by))


# --- datasets --------------------------------------------------------------------------------------------------------


@router.get("/datasets")
async def datasets_page(request: Request, visitor: Somebody) -> Response:
    """Lists datasets."""
    console = console_of(request)
    values: dict[str, Any] = {"datasets": [], "problem": ""}
    try:
        message = jobs_pb2.ListArtifactsRequest(kind="dataset", page_size=200)
        values["datasets"] = (await console.stack.jobs("ListArtifacts", message, visitor.token)).artifacts
    except YuanError as error:
        values["problem"] = str(error)
    return console.pages.answer(request, visitor, "datasets.html", values, status=503 if values["problem"] else 200)


@router.get("/datasets/{reference:path}")
async def dataset_page(request: Request, visitor: Somebody, reference: str, seed: int = 0) -> Response:
    """Shows a dataset: sizes, lengths, languages, what cleaning did, documents, and samples with their masks."""
    console = console_of(request)
    seed = max(0, min(seed, 2**31))
    describe = data_pb2.DescribeDatasetRequest(dataset=reference, details=True)
    documents = data_pb2.SampleDatasetRequest(dataset=reference, count=_DOCUMENTS, seed=seed, max_tokens=200)
    samples = data_pb2.SampleDatasetRequest(
        dataset=reference, count=_SAMPLES, seed=seed, packed=True, sequence_length=256
    )
    described = await console.stack.data("DescribeDataset", describe, visitor.token)
    problem = ""
    drawn: list[Any] = [[], []]
    try:
        drawn = [await console.stack.samples(message, visitor.token) for message in (documents, samples)]
    except YuanError as error:
        problem = str(error)
    details = described.details
    cleaning = plain_of(details.cleaning)
    values = {
        "dataset": described,
        "seed": seed,
        "lengths": details.lengths,
        "most": max((one.documents for one in details.lengths), default=1),
        "languages_of": details.languages,
        "language_tokens": max(1, sum(one.tokens for one in details.languages)),
        "language_documents": sum(one.documents for one in details.languages),
        "cleaning": cleaning,
        "stages": [{**one, "why": _reasons(one)} for one in cleaning.get("stages") or []],
        "documents": drawn[0],
        "samples": [_tokens(one) for one in drawn[1]],
        "problem": problem,
    }
    return console.pages.answer(request, visitor, "dataset.html", values)


def _reasons(stage: Mapping[str, Any]) -> str:
    reasons = sorted((stage.get("reasons") or {}).items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{reason} {int(count):,}" for reason, count in reasons[:6])


def _tokens(sample: data_pb2.SampleDatasetResponse) -> dict[str, Any]:
    """Returns a packed sample's tokens, each with the classes of the style sheet that say what it is."""
    begins: set[int] = set()
    place = 0
    for part in sample.parts:
        begins.add(place)
        place += part.length
    tokens: list[tuple[str, str]] = []
    for number, piece in enumerate(sample.pieces):
        counts = sample.in_loss[number] if number < len(sample.in_loss) else True
        kinds = ["token", "even" if number % 2 else "odd"]
        kinds += [] if counts else ["masked"]
        kinds += ["begins"] if number and number in begins else []
        tokens.append((shown_piece(piece), " ".join(kinds)))
    return {"tokens": tokens, "parts": list(sample.parts)}


def shown_piece(piece: str) -> str:
    """Returns a SentencePiece token as people read it: its space as one, a line's end as a sign and an end."""
    text = piece.replace("\u2581", " ")
    return "⏎\n" if text in ("<n>", "<0x0A>", "\n") else text
