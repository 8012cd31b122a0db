"""A `gather` job: accepted teaching requests to a folder with what is learned and what is held out to ask.

requests.json    every request with its review, and which of its examples are held out
training.txt     a line an example that is learned, `input[SEP]output`, as fine-tuning's text is
learned.jsonl    the same examples, a JSON object each
heldout.jsonl    the others
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yuan_events import InputError, Message
from yuan_jobs import WorkContext, WorkResult
from yuan_jobs.teaching import TeachingRequest, held_out
from yuan_manifest.schema import GatherJob, GatherSection

REQUESTS, TRAINING, LEARNED, HELD_OUT = "requests.json", "training.txt", "learned.jsonl", "heldout.jsonl"


def gather_work(context: WorkContext[GatherJob]) -> WorkResult:
    """Takes up the requests that wait, and writes their examples.

    Raises:
        StaleAttemptError: if another attempt of the job has begun.
    """
    if context.cycle is None:
        raise InputError(f"{context.job.name}: there is no registry of requests here")
    requests = context.cycle.gather()
    if not requests:
        return WorkResult({"requests": 0}, nothing="nothing accepted: no teaching request waits to be learned")
    rows, notes = divide(requests, context.job.gather)
    for note in notes:
        context.sink.emit(Message(note, level="warning"))
    write(context.output, rows, context.job_id)
    learned, asked = _examples(rows, held=False), _examples(rows, held=True)
    context.sink.emit(
        Message(f"{len(requests)} requests: {len(learned)} examples are learned, {len(asked)} are held out")
    )
    return WorkResult({"requests": len(requests), "learned": len(learned), "held_out": len(asked)})


def divide(requests: Sequence[TeachingRequest], section: GatherSection) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the requests as JSON's types, each example with `held_out`, and what there is to say of them.

    What is held out of one request is learned from no other: where several have the same input, the first one decides,
    and the others' example is left out, for it would be asked or learned twice.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    known: dict[str, tuple[str, str]] = {}
    for request in requests:
        held = held_out(request.id, request.asked.examples, section.held_out, section.seed)
        examples: list[dict[str, Any]] = []
        for index, example in enumerate(request.asked.examples):
            first, output = known.setdefault(example.input, (request.id, example.output))
            if first != request.id:
                differs = "" if output == example.output else ", with another output"
                notes.append(f"{request.id}: examples[{index}] is left out: {first} has its input already{differs}")
                continue
            key = f"{request.id}.{index}"
            examples.append({"id": key, "input": example.input, "output": example.output, "held_out": index in held})
        rows.append(
            {
                "id": request.id,
                "revision": request.revision,
                "scenario": request.asked.scenario,
                "behaviour": request.asked.behaviour,
                "author": request.asked.author,
                "reviewer": request.reviewer,
                "why": request.why,
                "examples": examples,
            }
        )
    return rows, notes


def write(folder: Path, rows: Sequence[Mapping[str, Any]], cycle: str) -> None:
    """Writes the files; the same requests of the same cycle give the same bytes."""
    whole = {"schema_version": 1, "cycle": cycle, "requests": list(rows)}
    (folder / REQUESTS).write_text(json.dumps(whole, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    for name, held in ((LEARNED, False), (HELD_OUT, True)):
        lines = [json.dumps(example, ensure_ascii=False) + "\n" for example in _examples(rows, held=held)]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    text = [f"{_line(one['input'])}[SEP]{_line(one['output'])}\n" for one in _examples(rows, held=False)]
    (folder / TRAINING).write_text("".join(text), encoding="utf-8")


def _examples(rows: Sequence[Mapping[str, Any]], *, held: bool) -> list[dict[str, Any]]:
    return [
        {"id": example["id"], "request": row["id"], "input": example["input"], "output": example["output"]}
        for row in rows
        for example in row["examples"]
        if example["held_out"] == held
    ]


def _line(text: str) -> str:
    """Returns a text as one line of fine-tuning's: `<n>` is a new line there."""
    return text.replace("\n", "<n>")
