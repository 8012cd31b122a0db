"""A `judge` job: the new model's report beside the old one's, the gate's word, and the changelog.

It leaves `verdict.json` for the jobs that act on it, and `CHANGELOG.md` for people; it SUCCEEDED whatever the verdict.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yuan_evaluator.changelog import changelog
from yuan_evaluator.gate import Result, judge_all
from yuan_evaluator.suite import ITEMS
from yuan_events import InputError, Message
from yuan_jobs import ArtifactHandle, WorkContext, WorkResult
from yuan_jobs.cycles import Said
from yuan_manifest.schema import JudgeJob
from yuan_manifest.suites import OF_REQUESTS

VERDICT, CHANGELOG = "verdict.json", "CHANGELOG.md"


def judge_work(context: WorkContext[JudgeJob]) -> WorkResult:
    """Judges a model.

    Raises:
        InputError: if the reports are not of this model and of the one it was made from, or have no task in common.
    """
    model, old, new = (context.inputs[name] for name in ("model", "baseline", "report"))
    requests = read_json(context.inputs["requests"], "requests.json")
    reports = {name: read_json(handle, "report.json") for name, handle in (("old", old), ("new", new))}
    base = _base(model, old, str(reports["old"]["model"]))
    if reports["new"]["model"] != model.reference:
        raise InputError(f"inputs.report {new.reference} is of {reports['new']['model']}, not of {model.reference}")
    results = judge_all(context.job.gate, reports["old"], old.path, reports["new"], new.path)
    failed = [result.told for result in results if not result.passed]
    verdict: dict[str, Any] = {
        "schema_version": 1,
        "published": not failed,
        "why": "; ".join(failed),
        "candidate": model.reference,
        "base": base,
        "cycle": requests["cycle"],
        "results": [result.plain() for result in results],
        "answers": {one["id"]: [vars(said) for said in _said(one, old.path, new.path)] for one in requests["requests"]},
    }
    text = json.dumps(verdict, ensure_ascii=False, indent=2) + "\n"
    (context.output / VERDICT).write_text(text, encoding="utf-8")
    made_from = [model, *_lineage(context, model), context.inputs["requests"], old, new]
    page = changelog(verdict, results, requests["requests"], made_from)
    (context.output / CHANGELOG).write_text(page, encoding="utf-8")
    for result in results:
        context.sink.emit(Message(result.told, level="info" if result.passed else "warning"))
    word = "passes the gate" if not failed else f"does not pass the gate: {verdict['why']}"
    context.sink.emit(Message(f"{model.reference} {word}"))
    return WorkResult({"published": not failed, "why": verdict["why"], "scores": _scores(results)})


def read_json(handle: ArtifactHandle, name: str) -> dict[str, Any]:
    """Returns what a file of an artifact holds.

    Raises:
        InputError: if the artifact has no such file, or it is no JSON object.
    """
    try:
        found: Any = json.loads((handle.path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{handle.reference}: has no {name}; it is none that a cycle of co-training makes")
    return found  # pyright: ignore[reportUnknownVariableType] - JSON


def _base(model: ArtifactHandle, old: ArtifactHandle, old_model: str) -> str:
    """Returns the model that another was fine-tuned from."""
    made_from: Mapping[str, Any] = model.metadata.get("inputs", {}).get("model") or {}
    base = str(made_from.get("artifact", ""))
    if base and base != old_model:
        raise InputError(
            f"inputs.baseline {old.reference} is of {old_model}, but {model.reference} was made from {base}"
        )
    return base or old_model


def _said(request: Mapping[str, Any], old: Path, new: Path) -> list[Said]:
    """Returns what both models say to a request's examples."""
    found: list[Said] = []
    before, now = _answers(old), _answers(new)
    for example in request["examples"]:
        theirs, ours = before.get(example["id"]), now.get(example["id"])
        found.append(
            Said(
                input=example["input"],
                wanted=example["output"],
                before=None if theirs is None else theirs[0],
                now=None if ours is None else ours[0],
                right=ours is not None and ours[1],
                held_out=bool(example["held_out"]),
            )
        )
    return found


def _answers(report: Path) -> dict[str, tuple[str, bool]]:
    """Returns what a report's model wrote to the examples of requests, and whether that is right, by example."""
    found: dict[str, tuple[str, bool]] = {}
    for name in OF_REQUESTS:
        file = report / ITEMS / f"{name}.jsonl"
        if not file.is_file():
            continue
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            chosen = row["samples"][row.get("chosen") or 0]
            found[str(row["item"])] = (str(chosen["text"]).strip(), bool(chosen["right"]))
    return found


def _lineage(context: WorkContext[JudgeJob], model: ArtifactHandle) -> list[ArtifactHandle]:
    """Returns what a model was made from, nearest first, as far as it is there."""
    found: list[ArtifactHandle] = []
    waiting, known = [model], {model.reference}
    while waiting and context.open_artifact is not None:
        inputs: Mapping[str, Any] = waiting.pop(0).metadata.get("inputs", {})
        for one in inputs.values():
            reference = str(one.get("artifact", ""))
            if reference and reference not in known:
                known.add(reference)
                try:
                    found.append(context.open_artifact(reference))
                except InputError:  # removed since (yuan gc)
                    continue
                waiting.append(found[-1])
    return found


def _scores(results: list[Result]) -> dict[str, Any]:
    return {result.task: {"old": result.old, "new": result.new} for result in results}
