"""Models beside each other: the newest report of each model and way of asking, and the published rows, so marked."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from yuan_evaluator.report.markdown import tasks_of
from yuan_evaluator.report.published import PUBLISHED
from yuan_events import YuanError
from yuan_jobs.artifacts import ArtifactStore
from yuan_manifest.suites import OF_REQUESTS

Row = Mapping[str, Any]


def published_rows() -> list[Row]:
    """Returns the published scores as rows."""
    return [
        {
            "model": one.model,
            "report": "",
            "how": "published",
            "profile": "yuan",
            "published": True,
            "scores": {name: {"value": v, "standard_error": None, "items": 0} for name, v in one.scores.items()},
        }
        for one in PUBLISHED
    ]


def row_of(report: Mapping[str, Any], reference: str) -> Row | None:
    """Returns a report's row; None if it has no task."""
    tasks = tasks_of(report)
    if not tasks:
        return None
    found = report["settings"]
    how = [found["profile"], *([f"{found['samples']} samples"] if found["samples"] > 1 else [])]
    how += [f"{found['few_shot']}-shot"] if found["few_shot"] else []
    how += ["likelihood"] if found["answering"] == "likelihood" else []
    how += [f"first {found['limit']}"] if found["limit"] is not None else []
    scores = {
        name: {key: task["score"][key] for key in ("value", "standard_error", "items")} for name, task in tasks.items()
    }
    return {
        "model": report["model"],
        "report": reference,
        "how": ", ".join(how),
        "profile": found["profile"],
        "published": False,
        "scores": scores,
    }


def leaderboard(store: ArtifactStore) -> list[Row]:
    """Returns all rows: ours by model, then the published ones."""
    ours: dict[tuple[str, str], Row] = {}
    for record in store.registry.artifacts():
        if record.kind != "report":
            continue
        reference = f"report/{record.name}@{record.version}"
        try:
            path = store.open_record(record).path / "report.json"
            row = row_of(json.loads(path.read_text(encoding="utf-8")), reference)
        except (YuanError, OSError, ValueError, KeyError, TypeError):
            continue  # of another kind of job, or of an older version
        if row is not None:
            # Every cycle has requests of its own: their scores say nothing beside another model's.
            row = {**row, "scores": {name: one for name, one in row["scores"].items() if name not in OF_REQUESTS}}
        if row is not None and row["scores"]:
            before = ours.get((row["model"], row["how"]))
            merged = {**before["scores"], **row["scores"]} if before else row["scores"]
            ours[row["model"], row["how"]] = {**row, "scores": merged}
    return [*ours.values(), *published_rows()]


def with_published(rows: Sequence[Row]) -> list[Row]:
    """Returns rows of ours before the published ones, of which only those tasks are kept that ours have."""
    names = {name for row in rows for name in row["scores"]}
    return [*rows, *(row for row in published_rows() if names & row["scores"].keys())]
