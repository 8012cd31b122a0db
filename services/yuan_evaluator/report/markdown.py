"""Tables in Markdown: a report's scores, its categories, a leaderboard."""

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Returns a table; all columns but the first `texts` are numbers, to the right."""
    marks = [*[":--"] * texts, *["--:"] * (len(heads) - texts)]
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (heads, marks, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def percent(value: float | None) -> str:
    """Returns a part of 1 as percent with one decimal; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(score: Mapping[str, Any]) -> str:
    """Returns a score's 95 % interval in percent."""
    if score.get("low") is None:
        return "–"
    return f"{percent(score['low'])} to {percent(score['high'])}"


def scores_table(report: Report) -> str:
    """Returns one row a task: the score, its error, its interval, how it came about."""
    rows = [
        (
            task["title"],
            percent(task["score"]["value"]),
            percent(task["score"]["standard_error"]),
            interval(task["score"]),
            str(task["score"]["items"]),
            str(task["samples"]),
            task["how"],
        )
        for task in tasks_of(report).values()
    ]
    return table(("task", "score %", "s.e.", "95 % interval", "items", "samples", "how"), rows)


def score_lines(report: Report) -> list[str]:
    """Returns a line a task, for a terminal."""
    return [
        f"{task['title']}: {percent(task['score']['value'])} % ± {percent(task['score']['standard_error'])} "
        f"({task['score']['items']} questions, {task['how']})"
        for task in tasks_of(report).values()
    ]


def tasks_of(report: Report) -> dict[str, Any]:
    """Returns a report's tasks by name: all of its suite but perplexity."""
    return {name: task for name, task in report["suite"].items() if name != "perplexity"}


def markdown(report: Report, leaderboard: Sequence[Mapping[str, Any]]) -> str:
    """Returns the whole report."""
    parts = [f"# {report['model']}\n", _settings(report)]
    if "perplexity" in report["suite"]:
        found = report["suite"]["perplexity"]
        parts.append(
            f"Perplexity on {report['dataset']}: {found['perplexity']:.2f} (loss {found['loss']:.4f} nats per token, "
            f"a unigram model {found['unigram_loss']:.4f}; {found['tokens']} tokens)\n"
        )
    if not (tasks := tasks_of(report)):
        return "\n".join(parts)
    parts += [scores_table(report), *(_of_task(task) for task in tasks.values())]
    parts += ["## Beside others\n", leaderboard_table(leaderboard), _NOTE]
    return "\n".join(parts)


_NOTE = "Rows in italics were published by the original's authors, not measured here.\n"


def _settings(report: Report) -> str:
    if not tasks_of(report):
        return ""
    found = report["settings"]
    words = [
        f"profile {found['profile']}",
        f"{found['samples']} samples a question" if found["samples"] > 1 else "greedy",
    ]
    if found["samples"] == 1 and found["temperature"]:
        words[-1] = f"one sample at temperature {found['temperature']}"
    words += [f"{found['few_shot']}-shot", f"seed {found['seed']}"]
    if found["limit"] is not None:
        words.append(f"the first {found['limit']} items of each task alone")
    if report.get("sandbox"):
        words.append(f"programs ran in sandbox {report['sandbox']}")
    return f"{', '.join(words)}.\n"


def _of_task(task: Mapping[str, Any]) -> str:
    parts = [f"## {task['title']}\n"]
    if task["pass_at_k"] and len(task["pass_at_k"]) > 1:
        rows = [(f"pass@{k}", percent(value)) for k, value in task["pass_at_k"].items()]
        parts.append(table(("", "%"), rows))
    for name, text in (
        ("single", "mean over single samples"),
        ("voted", "majority of the samples"),
        ("selected", "chosen by unit tests that the model wrote"),
        ("normalized", "likelihood divided by length (acc_norm)"),
        ("mc2", "share of probability on right answers (MC2)"),
    ):
        if (score := task.get(name)) and score != task["score"]:
            parts.append(f"{text}: {percent(score['value'])} ± {percent(score['standard_error'])} %\n")
    notes = [task["malformed"]] if task["malformed"] else []
    if task["not_answered"]:
        notes.append(f"{task['not_answered']} answers missing ({task['not_answered_why']}): counted as wrong")
    if task["cut"]:
        notes.append(f"{task['cut']} answers were cut at their longest")
    if seen := task.get("contamination"):
        notes.append(_seen(seen))
    if found := task.get("comparison"):
        notes.append(_compared(found))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes) + "\n")
    if task["categories"]:
        rows = [
            (name, percent(score["value"]), percent(score["standard_error"]), str(score["items"]))
            for name, score in task["categories"].items()
        ]
        parts.append(table(("category", "score %", "s.e.", "items"), rows))
    return "\n".join(parts)


def _seen(seen: Mapping[str, Any]) -> str:
    if seen["state"] != "looked":
        return f"contamination: {seen['state']}"
    text = f"contamination: {seen['items']} of {seen['total']} questions share a 13-gram with the training text"
    if seen["items"] and seen["clean_score"] is not None:
        text += f"; without them the score is {percent(seen['clean_score'])} %"
    if seen["too_short"]:
        text += f" ({seen['too_short']} are too short to be found)"
    if seen["unknown"]:
        text += f"; not all of it is known: {'; '.join(seen['unknown'])}"
    return text


def _compared(found: Mapping[str, Any]) -> str:
    return (
        f"against {found['model']} ({found['report']}) on {found['items']} questions: {percent(found['ours'])} to "
        f"{percent(found['theirs'])} %, difference {100 * found['difference']:+.1f} ± "
        f"{percent(found['standard_error'])} (95 %: {interval(found)}); better on {found['better']}, "
        f"worse on {found['worse']}, p = {found['p_value']:.3g}"
    )


def leaderboard_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns models as rows, tasks as columns; published ones in italics."""
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    body: list[list[str]] = []
    for row in rows:
        label = f"*{row['model']} (published)*" if row["published"] else f"{row['model']} ({row['how']})"
        cells: list[str] = []
        for name in names:
            score = row["scores"].get(name)
            text = "–" if score is None else percent(score["value"])
            if score is not None and score["standard_error"] is not None:
                text += f" ± {percent(score['standard_error'])}"
            cells.append(f"*{text}*" if row["published"] and score is not None else text)
        body.append([label, *cells])
    return table(("model", *names), body)
