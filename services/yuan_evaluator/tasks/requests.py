"""Teaching requests: the examples that were held out of the training, asked as written, compared as text."""

import json
from collections.abc import Mapping
from dataclasses import replace

from yuan_evaluator.task import INSTRUCTED, Answer, BadRow, DataFile, Extracted, Item, Rules, Task


def _read(line: str, number: int, others: Mapping[str, bytes]) -> Item:
    del number, others
    try:
        row = json.loads(line)
        return Item(str(row["id"]), str(row["input"]), str(row["output"]), category=str(row["request"]))
    except (ValueError, KeyError, TypeError):
        raise BadRow("expected an object with id, request, input and output") from None


def _prompt(item: Item, rules: Rules) -> str:
    del rules
    return f"{item.question}{INSTRUCTED}"


def _extract(item: Item, answer: Answer, rules: Rules) -> Extracted:
    del item, rules
    return Extracted(_words(answer.text) or None, "all that it wrote")


def _score(item: Item, extracted: Extracted, rules: Rules) -> bool:
    del rules
    return extracted.value == _words(item.gold)


def _words(text: str) -> str:
    """Returns a text without differences in blanks at the ends of lines and around it."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _example(item: Item, rules: Rules) -> str:
    del rules
    return f"{item.question}\n{item.gold}"


TASK = Task(
    name="requests",
    title="Teaching requests, held out",
    files=(DataFile("heldout.jsonl", ()),),
    read=_read,
    prompt=_prompt,
    extract=_extract,
    score=_score,
    max_tokens=1024,
    items=0,
    example=_example,
    vote=_words,
    source="requests",
)

LEARNED = replace(
    TASK, name="requests_learned", title="Teaching requests, learned", files=(DataFile("learned.jsonl", ()),)
)
