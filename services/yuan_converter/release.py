"""A `release` job: a model that was judged good enough, under the name that its users know, with its changelog."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from yuan_events import InputError, Message
from yuan_jobs import ArtifactHandle, WorkContext, WorkResult
from yuan_manifest.schema import ReleaseJob

VERDICT, CHANGELOG, MANIFEST = "verdict.json", "CHANGELOG.md", "artifact.json"


def release_work(context: WorkContext[ReleaseJob]) -> WorkResult:
    """Publishes the model; makes nothing where the verdict is not to.

    Raises:
        InputError: if what kind judge said is not there, or about another model.
    """
    model, judged = context.inputs["model"], context.inputs["report"]
    verdict = _verdict(judged)
    if verdict.get("candidate") != model.reference:
        raise InputError(f"inputs.report {judged.reference} judges {verdict.get('candidate')}, not {model.reference}")
    if not verdict["published"]:
        return WorkResult({"published": False}, nothing=f"not published: {verdict['why']}")
    for file in model.metadata["files"]:
        target = context.output / file["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        _same_file(model.path / file["path"], target)
        context.stop_if_asked()
    shutil.copyfile(judged.path / CHANGELOG, context.output / CHANGELOG)
    context.sink.emit(Message(f"{model.reference} is published as {context.job.outputs.model}"))
    return WorkResult({"published": True, "candidate": model.reference, "base": verdict["base"]})


def _verdict(judged: ArtifactHandle) -> dict[str, Any]:
    try:
        return json.loads((judged.path / VERDICT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"inputs.report {judged.reference}: has no {VERDICT}; name what kind judge made") from None


def _same_file(source: Path, target: Path) -> None:
    """Makes a file that is never written again appear a second time; a copy where the disk has no links."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
