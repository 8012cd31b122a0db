"""The tasks of an evaluate job: asked at one endpoint, scored, looked at from all sides, written down item by item."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yuan_evaluator import contamination, scores
from yuan_evaluator.asking import AnswerStore
from yuan_evaluator.batch_meter import BatchMeter
from yuan_evaluator.benchmark_data import TaskData, read_task, with_examples
from yuan_evaluator.endpoint import Endpoint, endpoint
from yuan_evaluator.report.page import browser
from yuan_evaluator.running import Plan, ask_all, categories, choose, collect, plan, run_programs
from yuan_evaluator.sandbox.limits import Limits
from yuan_evaluator.sandbox.pool import Sandbox, open_sandbox
from yuan_evaluator.task import Task
from yuan_events import Message
from yuan_jobs import WorkContext
from yuan_manifest.schema import EvaluateJob, EvaluateSection, as_plain

ITEMS = "items"
"""Folder of a report with a file a task: every prompt, answer, extraction and verdict."""


def run_suite(context: WorkContext[EvaluateJob], tasks: Sequence[Task]) -> dict[str, Any]:
    """Runs tasks and writes their items into the output folder.

    Returns:
        What the report says: `settings`, `suite` by task, `generation`, `sandbox`.

    Raises:
        InputError: if data, sandbox or model are not as they must be; nothing was asked then.
        WorkFailed, Interrupted: as it says; what is answered by then is kept for the next attempt.
    """
    section = context.job.evaluate
    folder = str(context.job.inputs.data)
    data = {
        # What an artifact holds is known by that artifact's version.
        task.name: read_task(task, str(context.inputs[task.source].path), other=True)
        if task.source
        else read_task(task, folder, other=section.other_data)
        for task in tasks
    }
    for task in tasks:
        if file := section.examples.get(task.name):
            data[task.name] = with_examples(data[task.name], task, folder, file, section.few_shot)
    for name, found in data.items():
        if found.malformed:
            context.sink.emit(Message(f"{name}: {found.malformed_summary}", level="warning"))
    with _sandbox_for(context, tasks) as sandbox, endpoint(context) as place:
        store = AnswerStore(
            context.run / "answers.jsonl",
            context.cache / "answers.sqlite" if context.cache is not None and section.cache else None,
            context.inputs["model"].digest,
        )
        try:
            plans = [plan(task, data[task.name], section, place.vocabulary) for task in tasks]
            for one in plans:
                if section.few_shot and any(question.has_own_examples for question in one.questions):
                    text = f"{one.task.name}: few_shot is not used, its prompt has examples of its own"
                    context.sink.emit(Message(text, level="warning"))
            generation = _asked(context, plans, place, store)
            for one in plans:
                collect(one, store)
        finally:
            store.close()
        limits = _limits(section)
        for one in plans:
            if one.task.program is not None and sandbox is not None:
                run_programs(one, sandbox, limits, context.sink, context.stop_if_asked)
    suite: dict[str, Any] = {}
    shares: dict[str, dict[str, float]] = {}
    records: dict[str, list[dict[str, Any]]] = {}
    for one in plans:
        suite[one.task.name], shares[one.task.name] = (_scored_by_likelihood if one.by_likelihood else _scored)(one)
        records[one.task.name] = [question.plain() for question in one.questions]
    _look_for_seen(context, {task.name: data[task.name] for task in tasks}, suite, shares)
    _compare(context, suite, shares)
    _write_items(context.output / ITEMS, suite, records)
    told: dict[str, Any] = {"settings": as_plain(section) | {"data": {n: d.sha256 for n, d in data.items()}}}
    told |= {"suite": suite, "generation": generation}
    return told | ({"sandbox": sandbox.name} if sandbox is not None else {})


class _NoSandbox:
    """In place of one, where nothing runs."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


def _sandbox_for(context: WorkContext[EvaluateJob], tasks: Sequence[Task]) -> Sandbox | _NoSandbox:
    if not any(task.program for task in tasks):
        return _NoSandbox()
    wanted = context.job.evaluate.sandbox
    sandbox = open_sandbox(unsafe=wanted.unsafe, socket_path=wanted.socket)
    if sandbox.name == "none":
        text = "generated programs run with limits alone and are not confined (evaluate.sandbox.unsafe)"
        context.sink.emit(Message(text, level="warning"))
    else:
        context.sink.emit(Message(f"generated programs run in sandbox {sandbox.name}"))
    return sandbox


def _limits(section: EvaluateSection) -> Limits:
    box = section.sandbox
    return Limits(box.wall_seconds, box.cpu_seconds, box.memory_mib, box.processes, box.file_mib)


def _asked(
    context: WorkContext[EvaluateJob], plans: Sequence[Plan], place: Endpoint, store: AnswerStore
) -> dict[str, Any]:
    if not plans:
        return {}
    service = place.cluster.services.inference
    port = service.metrics_port if service is not None else None
    with BatchMeter("127.0.0.1", port, place.name) as meter:
        facts: dict[str, Any] = dict(ask_all(plans, place, store, context.sink, context.should_stop))
    if meter.mean is not None:
        facts |= {"mean_running": round(meter.mean, 3), "max_batch": place.max_batch}
    return facts


def _scored(one: Plan) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns a task's part of the report, and the value of each question."""
    section, task = one.section, one.task
    chose = choose(one)
    shares = {question.item.id: question.share for question in one.questions}
    single = _estimate(shares.values(), section)
    found: dict[str, Any] = _head(one) | {"how": task.metric, "score": single, "single": single}
    if chose:
        by_tests = task.program is not None
        shares = {question.item.id: question.chosen_right for question in one.questions}
        found["score"] = _estimate(shares.values(), section)
        found["selected" if by_tests else "voted"] = found["score"]
        found["how"] = f"{'chosen by unit tests' if by_tests else 'majority'} of {section.samples}"
    if section.samples > 1 or task.program is not None:
        right = [round(question.share * section.samples) for question in one.questions]
        found["pass_at_k"] = {
            str(k): sum(scores.pass_at_k(section.samples, c, k) for c in right) / len(right)
            for k in scores.ks(section.samples)
        }
    samples = [sample for question in one.questions for sample in question.samples]
    errors = Counter(sample.reply.error for sample in samples if sample.reply.error)
    found |= _missing(errors)
    found["cut"] = sum(sample.reply.cut for sample in samples)
    found["nothing_extracted"] = sum(sample.extracted is None for sample in samples)
    found["categories"] = _categories([(q.item.category, shares[q.item.id]) for q in one.questions], section)
    return found, shares


def _scored_by_likelihood(one: Plan) -> tuple[dict[str, Any], dict[str, float]]:
    section = one.section
    shares = {question.item.id: question.share for question in one.questions}
    judged = [question.judged for question in one.questions if question.judged is not None]
    found = _head(one) | {"how": "likelihood", "samples": 1, "score": _estimate(shares.values(), section)}
    found["normalized"] = _estimate([float(verdict.right_by_length) for verdict in judged], section)
    several = [verdict.share for verdict in judged if verdict.share is not None]
    if several:
        found["mc2"] = _estimate(several, section)
    errors = Counter(verdict.error for verdict in judged if verdict.error)
    found |= _missing(errors)
    found["categories"] = _categories([(q.item.category, shares[q.item.id]) for q in one.questions], section)
    return found, shares


def _missing(errors: Counter[str]) -> dict[str, Any]:
    """Returns how many answers there are not, and why most of them."""
    return {"not_answered": errors.total(), "not_answered_why": errors.most_common(1)[0][0] if errors else ""}


def _head(one: Plan) -> dict[str, Any]:
    return {
        "title": one.task.title,
        "metric": one.task.metric,
        "items": len(one.questions),
        "samples": one.section.samples,
        "pass_at_k": {},
        "malformed": one.data.malformed_summary,
        "not_answered": 0,
        "not_answered_why": "",
        "cut": 0,
    }


def _estimate(values: Any, section: EvaluateSection) -> dict[str, Any]:
    return asdict(scores.estimate(list(values), section.bootstrap, section.seed))


def _categories(values: Sequence[tuple[str, float]], section: EvaluateSection) -> dict[str, Any]:
    return {name: asdict(found) for name, found in categories(values, section.seed).items()}


def _look_for_seen(
    context: WorkContext[EvaluateJob],
    data: Mapping[str, TaskData],
    suite: dict[str, Any],
    shares: Mapping[str, Mapping[str, float]],
) -> None:
    """Adds to each task what of it was in the training text."""
    if not context.job.evaluate.contamination:
        for task in suite.values():
            task["contamination"] = {"state": "not looked for"}
        return
    found = contamination.lineage(context.inputs["model"], context.open_artifact)
    if not found.datasets:
        reason = "; ".join(found.unknown) or "the model has no training dataset in its lineage"
        for task in suite.values():
            task["contamination"] = {"state": f"not known: {reason}"}
        return
    asked = {name: [(i.id, i.question) for i in one.items if i.id in shares[name]] for name, one in data.items()}
    for name, seen in contamination.find_seen(asked, found, context.sink, context.stop_if_asked).items():
        clean = [value for item, value in shares[name].items() if item not in seen.items]
        suite[name]["contamination"] = {
            "state": "looked",
            "datasets": sorted(found.datasets),
            "unknown": list(found.unknown),
            "items": len(seen.items),
            "item_ids": sorted(seen.items),
            "too_short": seen.too_short,
            "total": seen.total,
            "clean_score": sum(clean) / len(clean) if clean else None,
        }


def _compare(
    context: WorkContext[EvaluateJob], suite: dict[str, Any], shares: Mapping[str, Mapping[str, float]]
) -> None:
    """Adds to each task how it stands to another model's report."""
    other = context.inputs.get("report")
    if other is None:
        return
    section = context.job.evaluate
    for name, task in suite.items():
        theirs = shares_of(other.path, name)
        found = scores.compare(shares[name], theirs, section.bootstrap, section.seed) if theirs else None
        if found is None:
            context.sink.emit(Message(f"{name}: {other.reference} has none of its questions", level="warning"))
            continue
        task["comparison"] = {"report": other.reference, "model": model_of(other.path), **asdict(found)}


def shares_of(report: Path, task: str) -> dict[str, float]:
    """Returns the value of each question of a report's task; empty if it has none."""
    try:
        lines = (report / ITEMS / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    rows = [json.loads(line) for line in lines]
    return {str(row["item"]): float(row.get("chosen_right", row["right"])) for row in rows}


def model_of(report: Path) -> str:
    """Returns the model of a report."""
    return str(json.loads((report / "report.json").read_text(encoding="utf-8"))["model"])


def _write_items(folder: Path, suite: Mapping[str, Any], records: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    folder.mkdir()
    for name, rows in records.items():
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"task": name, **row}, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.html").write_text(browser(suite[name]["title"], rows), encoding="utf-8", errors="replace")
