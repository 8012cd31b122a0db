"""An evaluate job from its context to its report: each entry of the suite is one measurement."""

import json
from collections.abc import Mapping
from typing import Any

from yuan_evaluator.benchmark_data import fingerprint_of
from yuan_evaluator.report.leaderboard import row_of, with_published
from yuan_evaluator.report.markdown import markdown, score_lines
from yuan_evaluator.suite import run_suite
from yuan_evaluator.task import Task
from yuan_evaluator.tasks import all_tasks, tasks_of
from yuan_events import InputError, Message
from yuan_jobs import WorkContext, WorkResult
from yuan_manifest.rules import one_of
from yuan_manifest.schema import EvaluateJob
from yuan_manifest.suites import PERPLEXITY, SUITE


def evaluate_work(context: WorkContext[EvaluateJob]) -> WorkResult:
    """Measures what the suite names; leaves `report.json`, `report.md`, `report.html` and every item's details.

    Raises:
        InputError: if model, dataset, benchmarks or sandbox are not as they must be.
        WorkFailed: if the inference service stays away.
        Interrupted: if it was asked to stop; run again it goes on with the next unanswered question.
    """
    job = context.job
    tasks = known_tasks(job)
    report: dict[str, Any] = {"schema_version": 1, "model": context.inputs["model"].reference}
    summary: dict[str, Any] = {}
    suite: dict[str, Any] = {}
    if PERPLEXITY in job.suite:
        from yuan_evaluator.perplexity_work import measured_perplexity  # noqa: PLC0415 - torch takes seconds

        report["dataset"] = context.inputs["dataset"].reference
        suite[PERPLEXITY] = measured_perplexity(context)
        summary |= suite[PERPLEXITY]
    if tasks:
        found = run_suite(context, tasks)
        suite |= found.pop("suite")
        report |= found
        summary["scores"] = {task.name: suite[task.name]["score"]["value"] for task in tasks}
    report["suite"] = suite
    _write(context, report)
    return WorkResult(summary)


def known_tasks(job: EvaluateJob) -> list[Task]:
    """Returns a job's tasks.

    Raises:
        InputError: if there is none of a name.
    """
    for index, name in enumerate(job.suite):
        for key, problem in one_of(f"suite[{index}]", name, (SUITE, PERPLEXITY, *all_tasks())):
            raise InputError(f"{job.name}: {key}: {problem}")
    tasks = tasks_of(job.suite)
    for name in job.evaluate.examples:
        for key, problem in one_of(f"evaluate.examples.{name}", name, [task.name for task in tasks]):
            raise InputError(f"{job.name}: {key}: {problem}")
    return tasks


def fingerprint(job: EvaluateJob) -> Mapping[str, str]:
    """Returns a digest of the benchmarks' files that a job reads.

    Raises:
        InputError: if one is missing or of a version that is not known.
    """
    tasks = [task for task in known_tasks(job) if not task.source]
    if not tasks:
        return {}
    section = job.evaluate
    return {"data": fingerprint_of(tasks, str(job.inputs.data), section.examples, other=section.other_data)}


def _write(context: WorkContext[EvaluateJob], report: Mapping[str, Any]) -> None:
    text = json.dumps(report, ensure_ascii=False, indent=2) + "\n"
    (context.output / "report.json").write_text(text, encoding="utf-8")
    row = row_of(report, "") if any(name != PERPLEXITY for name in report["suite"]) else None
    rows = with_published([row]) if row is not None else []
    (context.output / "report.md").write_text(markdown(report, rows), encoding="utf-8")
    if row is None:
        return
    from yuan_evaluator.report.page import page  # noqa: PLC0415 - matplotlib takes a second

    (context.output / "report.html").write_text(page(report, rows), encoding="utf-8", errors="replace")
    for line in score_lines(report):
        context.sink.emit(Message(line))
