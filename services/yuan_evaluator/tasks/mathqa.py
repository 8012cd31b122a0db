"""AGIEval Gaokao-MathQA: 351 questions of university entrance examinations with four options."""

import json
import re
from collections.abc import Mapping

from yuan_evaluator.answers.letters import chosen
from yuan_evaluator.task import INSTRUCTED, Answer, BadRow, Choices, DataFile, Extracted, Item, Rules, Task
from yuan_evaluator.tasks.gsm8k import read_pair

_INSTRUCTION = "给出如下问题的分析，并从问题后的选项中选择出正确答案。\n"
_SOURCES = DataFile(
    "agieval/gaokao-mathqa.jsonl",
    ("d246f12752d121289ef55cbf1bcf954243cefb65d110f71d09358e24065c808f",),
    optional=True,
)
_LETTERS = "ABCD"


def _read(line: str, number: int, others: Mapping[str, bytes]) -> Item:
    question, reference = read_pair(line)
    found = re.search(r"答案[:：]\s*([A-D](?:[,，、 ]*[A-D])*)", reference)
    if found is None:
        raise BadRow("expected [SEP]答案：X with letters of A to D")
    gold = "".join(sorted(set(re.sub(r"[^A-D]", "", found[1]))))
    right = frozenset(_LETTERS.index(letter) for letter in gold)
    return Item(str(number), question.replace("<n>", "\n"), gold, tuple(_LETTERS), right, _year(number, others))


def _year(number: int, others: Mapping[str, bytes]) -> str:
    """Returns the year of the examination: AGIEval's file has the same rows in the same order."""
    lines = others.get(_SOURCES.path, b"").splitlines()
    if number >= len(lines):
        return ""
    source = str((json.loads(lines[number]).get("other") or {}).get("source") or "")
    found = re.search(r"20\d\d", source)
    return found[0] if found else "year unknown"


def _prompt(item: Item, rules: Rules) -> str:
    del rules
    return f"{_INSTRUCTION}{item.question}\n{INSTRUCTED}"


def _example(item: Item, rules: Rules) -> str:
    del rules
    return f"{_INSTRUCTION}{item.question}\n故选{item.gold}。"


def _extract(item: Item, answer: Answer, rules: Rules) -> Extracted:
    text = answer.text if rules.strict or not answer.cut else answer.text[:-5]
    return Extracted(*chosen(text.replace("<eod>", ""), item.question))


def _score(item: Item, extracted: Extracted, rules: Rules) -> bool:
    del rules
    return extracted.value == item.gold


def _likelihood(item: Item, rules: Rules) -> Choices:
    del rules
    return Choices(f"{_INSTRUCTION}{item.question}\n{INSTRUCTED}故选", tuple(_LETTERS), item.right)


TASK = Task(
    name="mathqa",
    title="AGIEval Gaokao-MathQA",
    files=(
        DataFile(
            "yuan-datasets/AGIEval-Math/mathqa.txt",
            ("cd3ee45d68fd9adb5002b40dce8971dc03521d3d2748bd2d75182db179c32808",),
        ),
        _SOURCES,
    ),
    read=_read,
    prompt=_prompt,
    extract=_extract,
    score=_score,
    max_tokens=1023,
    items=351,
    example=_example,
    vote=lambda value: value,
    likelihood=_likelihood,
)
