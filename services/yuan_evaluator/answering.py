"""An `answer` job: tells each request of a cycle what became of it, once."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from yuan_evaluator.judging import VERDICT, read_json
from yuan_events import InputError, Message, WorkFailed
from yuan_jobs import ArtifactHandle, WorkContext, WorkResult
from yuan_jobs.cycles import Answer, Said
from yuan_jobs.references import ArtifactNotFound
from yuan_manifest.schema import AnswerJob


def answer_work(context: WorkContext[AnswerJob]) -> WorkResult:
    """Answers the requests; those that are answered already, or that another cycle has, are left as they are.

    Raises:
        InputError: if requests and verdict are not of one cycle.
        WorkFailed: if the verdict is to publish, and nothing was published by it.
    """
    if context.cycle is None:
        raise InputError(f"{context.job.name}: there is no registry of requests here")
    judged = context.inputs["report"]
    requests = read_json(context.inputs["requests"], "requests.json")
    verdict = read_json(judged, VERDICT)
    if verdict.get("cycle") != requests["cycle"]:
        other = context.inputs["requests"].reference
        raise InputError(f"inputs.report {judged.reference} judges another cycle than that of {other}")
    published = bool(verdict["published"])
    model = _released(context, judged) if published else str(verdict["base"])
    rows: list[dict[str, Any]] = []
    for request in requests["requests"]:
        said: Sequence[Mapping[str, Any]] = verdict["answers"][request["id"]]
        answer = Answer(
            published=published,
            model=model,
            why=str(verdict["why"]),
            changelog=judged.reference,
            examples=[Said(**one) for one in said],
        )
        done = context.cycle.answer(request["id"], str(requests["cycle"]), answer)
        rows.append({"id": request["id"], "answered_here": done, **answer.plain()})
    text = json.dumps({"schema_version": 1, "cycle": requests["cycle"], "answers": rows}, ensure_ascii=False, indent=2)
    (context.output / "answers.json").write_text(text + "\n", encoding="utf-8")
    here = sum(row["answered_here"] for row in rows)
    context.sink.emit(Message(f"{here} requests are answered: {model if published else 'not published'}"))
    if others := len(rows) - here:
        context.sink.emit(Message(f"{others} were answered before, or are in another cycle"))
    return WorkResult({"answered": here, "before": others, "published": published, "model": model})


def _released(context: WorkContext[AnswerJob], judged: ArtifactHandle) -> str:
    """Returns the version of the model that was published by a verdict; a later cycle may have published since."""
    name = f"model/{context.job.released}"
    if context.open_artifact is None:
        raise InputError(f"{context.job.name}: there is no store of models here")
    try:
        version = context.open_artifact(name).version
    except ArtifactNotFound:
        version = 0
    for number in range(version, 0, -1):
        try:
            found = context.open_artifact(f"{name}@{number}")
        except InputError:  # removed since (yuan gc)
            continue
        inputs: Mapping[str, Any] = found.metadata.get("inputs", {})
        if inputs.get("report", {}).get("artifact") == judged.reference:
            return found.reference
    raise WorkFailed(
        f"{judged.reference} lets the model through, but no version of {name} was released by it; let a step of kind "
        f"release with outputs.model {context.job.released} come before"
    )
