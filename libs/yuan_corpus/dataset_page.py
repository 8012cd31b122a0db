"""A dataset as one HTML page: facts, charts, what cleaning did, documents and samples. It shows without a network."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from yuan_corpus.charts import bar_chart
from yuan_corpus.dataset_view import Details, ShownDocument, ShownSample

_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #1a202c }
table { border-collapse: collapse; margin: .5em 0 } th { border-bottom: 1px solid #a0aec0 }
td, th { padding: .2em .8em .2em 0; text-align: left; vertical-align: top }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f7fafc; padding: .6em; margin: .4em 0 }
.token { border-radius: 2px } .even { background: #e6f0fa } .odd { background: #fdf0e1 }
.masked { color: #a0aec0 } .boundary { border-left: 3px solid #b83280; padding-left: 2px }
summary { cursor: pointer } svg { max-width: 100%; height: auto }
"""


def dataset_page(
    title: str,
    facts: Mapping[str, str],
    details: Details,
    documents: Iterable[ShownDocument],
    samples: Iterable[ShownSample],
) -> str:
    """Returns the page.

    Args:
        title: the dataset's name.
        facts: rows of its first table.
        details: what it looks like.
        documents: some of them.
        samples: some of them.
    """
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(title)}</title>",
        f"<style>{_STYLE}</style></head><body><h1>{_text(title)}</h1>",
        _table((), [(name, value) for name, value in facts.items()]),
        *_lengths(details),
        *_languages(details),
        *_cleaning(details.cleaning),
        "<h2>Documents</h2>",
        *(_document(shown) for shown in documents),
        "<h2>Packed samples</h2>",
        "<p>Tokens as training reads them, in alternating colours; grey ones do not count in the loss; a bar is the "
        "beginning of another document.</p>",
        *(_sample(number, shown) for number, shown in enumerate(samples)),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _lengths(details: Details) -> list[str]:
    if not details.lengths:
        return []
    buckets = details.lengths
    labels = [f"{one.first:,}" if one.first == one.last else f"{one.first:,} to {one.last:,}" for one in buckets]
    documents, tokens = [one.documents for one in buckets], [one.tokens for one in buckets]
    return [
        "<h2>Lengths of documents</h2>",
        bar_chart("Documents by their tokens", labels, {"documents": documents}),
        bar_chart("Tokens in documents of so many", labels, {"tokens": tokens}),
    ]


def _languages(details: Details) -> list[str]:
    if not details.languages:
        return []
    looked_at = sum(share.documents for share in details.languages)
    everything = looked_at == sum(bucket.documents for bucket in details.lengths)
    drawn = "all documents" if everything else f"{looked_at:,} documents drawn at random"
    labels = [share.language for share in details.languages]
    tokens = [share.tokens for share in details.languages]
    return [
        "<h2>Languages</h2>",
        bar_chart(f"Tokens by language, in {drawn}", labels, {"tokens": tokens}),
    ]


def _cleaning(report: Mapping[str, Any]) -> list[str]:
    if not report:
        return []
    stages: list[dict[str, Any]] = report.get("stages", [])
    read = f"<p>{report['documents_read']:,} documents were read, {report['skipped']:,} broken ones left out.</p>"
    if not stages:
        return ["<h2>Reading</h2>", read]
    names = [f"{number}. {stage['stage']}" for number, stage in enumerate(stages, 1)]
    series = {key: [float(stage[key]) for stage in stages] for key in ("dropped", "changed")}
    parts = [
        "<h2>Cleaning</h2>",
        read,
        bar_chart("Documents by stage", names, series),
    ]
    for name, stage in zip(names, stages, strict=True):
        reasons = [(reason, f"{count:,}") for reason, count in reasons_of(stage)]
        shown = [f"{sample['reason']}: {sample.get('text', '')}" for sample in stage["dropped_samples"]]
        shown += [f"- {sample.get('before', '')}\n+ {sample.get('after', '')}" for sample in stage["changed_samples"]]
        heading = (
            f"{name}: {stage['documents']:,} documents, {stage['dropped']:,} dropped, {stage['changed']:,} changed"
        )
        parts.append(
            f"<details><summary>{_text(heading)}</summary>{_table(('reason', 'documents'), reasons) if reasons else ''}"
            f"{''.join(f'<pre>{_text(text)}</pre>' for text in shown)}</details>"
        )
    return parts


def reasons_of(stage: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Returns why a stage dropped documents, the most frequent reason first."""
    return sorted(
        ((reason, int(count)) for reason, count in stage["reasons"].items()), key=lambda one: (-one[1], one[0])
    )


def _document(shown: ShownDocument) -> str:
    cut = f", the first {len(shown.ids):,} shown" if len(shown.ids) < shown.tokens else ""
    return f"<h3>Document {shown.document:,}: {shown.tokens:,} tokens{cut}</h3><pre>{_text(shown.text)}</pre>"


def _sample(number: int, shown: ShownSample) -> str:
    begins = set[int]()
    position = 0
    for part in shown.parts:
        begins.add(position)
        position += part.length
    spans: list[str] = []
    for place, (piece, counts) in enumerate(zip(shown.pieces, shown.in_loss, strict=True)):
        kinds = ["token", "even" if place % 2 else "odd"]
        kinds += [] if counts else ["masked"]
        kinds += ["boundary"] if place in begins and place else []
        spans.append(f"<span class='{' '.join(kinds)}'>{_text(readable(piece))}</span>")
    parts = ", ".join(f"{part.document:,} from token {part.offset:,}" for part in shown.parts)
    return f"<h3>Sample {number}: documents {_text(parts)}</h3><pre>{''.join(spans)}</pre>"


def readable(piece: str) -> str:
    """Returns a piece as people read it: a space for SentencePiece's sign, a line end behind that of a line."""
    if piece == "<0x0A>":
        return "⏎\n"
    return piece.replace("▁", " ")


def _table(headings: Sequence[str], rows: Sequence[tuple[str, str]]) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    body = "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _text(text: str) -> str:
    return html.escape(
        "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)
    )
