"""The changelog of a co-training cycle, in Markdown: requests, data, scores before and after, hashes, lineage."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yuan_evaluator.gate import Result
from yuan_evaluator.report.markdown import percent, table
from yuan_jobs import ArtifactHandle
from yuan_manifest.suites import PERPLEXITY

_LONGEST = 80


def changelog(
    verdict: Mapping[str, Any],
    results: Sequence[Result],
    requests: Sequence[Mapping[str, Any]],
    made_from: Sequence[ArtifactHandle],
) -> str:
    """Returns the page.

    Args:
        verdict: what `verdict.json` says.
        results: how the models stand to each other.
        requests: that were to be learned.
        made_from: the new model first, all that it was made from, the requests and the two reports.
    """
    base = verdict["base"]
    parts = [f"# What {verdict['candidate']} has learned since {base}\n"]
    if verdict["published"]:
        parts.append("It passes the gate and is published.\n")
    else:
        parts.append(f"**It is not published**: {verdict['why']}. {base} stays.\n")
    parts += ["## Requests\n", _requests(requests, verdict["answers"])]
    parts += [text for one in requests for text in _request(one, verdict["answers"][one["id"]])]
    parts += ["## Data\n", _data(requests, made_from), "## Scores\n", _scores(results)]
    parts += ["## Made from\n", _hashes(made_from)]
    return "\n".join(parts)


def _requests(requests: Sequence[Mapping[str, Any]], answers: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = []
    for one in requests:
        said = answers[one["id"]]
        kept = [example for example in said if example["held_out"]]
        right = sum(example["right"] for example in kept)
        counts = (str(len(said) - len(kept)), f"{right} of {len(kept)}")
        rows.append((one["id"], _short(one["scenario"]), one["author"], one["reviewer"], *counts))
    return table(
        ("request", "scenario", "author", "accepted by", "examples learned", "held out, right now"), rows, texts=4
    )


def _request(request: Mapping[str, Any], said: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"### {request['id']}\n"
    yield f"{' '.join(request['behaviour'].split())}\n"
    kept = [example for example in said if example["held_out"]]
    rows = [tuple(_short(_told(one[name])) for name in ("input", "wanted", "before", "now")) for one in kept]
    if rows:
        yield table(("held-out input", "wanted", "before", "now"), rows, texts=4)


def _told(text: str | None) -> str:
    return "(not asked)" if text is None else text


def _data(requests: Sequence[Mapping[str, Any]], made_from: Sequence[ArtifactHandle]) -> str:
    examples = [example for one in requests for example in one["examples"]]
    held = sum(example["held_out"] for example in examples)
    lines = [f"- {len(requests)} requests, {len(examples) - held} examples learned, {held} held out"]
    for handle in made_from:
        summary = handle.summary
        if handle.kind == "dataset" and "documents" in summary:
            lines.append(f"- {handle.reference}: {summary['documents']:,} documents, {summary['tokens']:,} tokens")
    return "\n".join(lines) + "\n"


def _scores(results: Sequence[Result]) -> str:
    rows: list[tuple[str, ...]] = []
    for one in results:
        gate = "–" if one.allowed is None else "passed" if one.passed else "**failed**"
        if one.task == PERPLEXITY:
            change = f"{100 * one.difference:+.1f} %"
            rows.append((one.title, f"{one.old:.2f}", f"{one.new:.2f}", change, "–", "–", str(one.items), gate))
            continue
        low, high = one.low, one.high
        interval = "–" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
        p_value = "–" if one.p_value is None else f"{one.p_value:.3f}"
        change = f"{100 * one.difference:+.1f}"
        rows.append((one.title, percent(one.old), percent(one.new), change, interval, p_value, str(one.items), gate))
    return table(("task", "old", "new", "difference", "95 % interval", "p", "items", "gate"), rows)


def _hashes(handles: Sequence[ArtifactHandle]) -> str:
    rows: list[tuple[str, ...]] = []
    for handle in {one.reference: one for one in handles}.values():
        inputs: Mapping[str, Any] = handle.metadata.get("inputs", {})
        sources = ", ".join(str(one["artifact"]) for one in inputs.values() if "artifact" in one)
        rows.append(
            (handle.reference, sources or "–", str(handle.metadata.get("job", {}).get("id", "–")), handle.digest)
        )
    return table(("artifact", "made from", "by job", "sha256 of its files"), rows, texts=4)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
