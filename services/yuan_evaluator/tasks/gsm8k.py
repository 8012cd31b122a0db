"""GSM8K in GPT-4's Chinese translation: 1,319 word problems whose answer is a number, as the original asks them."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace

from yuan_evaluator.answers import equality, numbers
from yuan_evaluator.task import INSTRUCTED, Answer, BadRow, DataFile, Extracted, Item, Rules, Task

_INSTRUCTION = "详细分析并求解以下数学问题。\n"
_SOLUTIONS = DataFile(
    "gsm8k/test.jsonl", ("3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",), optional=True
)


def read_pair(line: str) -> tuple[str, str]:
    """Returns question and answer of a line `question[SEP]answer`.

    Raises:
        BadRow: if it is none.
    """
    question, mark, answer = line.rpartition("[SEP]")
    if not mark or not question.strip() or not answer.strip():
        raise BadRow("expected question[SEP]answer")
    return question, answer.strip()


def _read(line: str, number: int, others: Mapping[str, bytes]) -> Item:
    question, gold = read_pair(line)
    del others
    if equality.number(gold) is None:
        raise BadRow(f"the answer {gold[:40]!r} is no number")
    return Item(str(number), question, gold)


def _read_english(line: str, number: int, others: Mapping[str, bytes]) -> Item:
    """Knows from the published solutions how many steps a problem has."""
    item = _read(line, number, others)
    solutions = _steps(others.get(_SOLUTIONS.path, b""))
    steps = solutions.get(_key(item.question))
    return replace(item, category=f"{steps} steps" if steps else "")


_known: dict[int, dict[str, int]] = {}


def _steps(data: bytes) -> dict[str, int]:
    key = hash(data)
    if key not in _known:
        rows = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
        _known[key] = {_key(row["question"]): row["answer"].count("<<") for row in rows}
    return _known[key]


def _key(question: str) -> str:
    return re.sub(r"\W+", "", question).lower()


def _prompt(item: Item, rules: Rules) -> str:
    del rules
    return f"{_INSTRUCTION}{item.question}{INSTRUCTED}"


def _read_example(line: str, number: int) -> Item:
    """Reads a worked example: of the published training part, with its steps, or as the questions are."""
    if not line.lstrip().startswith("{"):
        return _read(line, number, {})
    try:
        row = json.loads(line)
        question, (steps, gold) = str(row["question"]), str(row["answer"]).rsplit("####", 1)
    except (ValueError, KeyError, TypeError):
        raise BadRow(
            "expected question[SEP]answer, or an object with question and answer (steps #### number)"
        ) from None
    if equality.number(gold.strip()) is None:
        raise BadRow(f"the answer {gold.strip()[:40]!r} is no number")
    # <<48/2=24>> is for a calculator that the benchmark's authors gave their model.
    return Item(str(number), question, gold.strip(), more={"steps": re.sub(r"<<.*?>>", "", steps).strip()})


def _example(item: Item, rules: Rules) -> str:
    del rules
    steps = f"{item.more['steps']}\n" if item.more.get("steps") else ""
    return f"{_INSTRUCTION}{item.question}\n{steps}答案是{item.gold}。"


def _extract(item: Item, answer: Answer, rules: Rules) -> Extracted:
    if rules.strict:
        return Extracted(*numbers.final_value(answer.text))
    # The original's rule looks for the gold in the last lines: what it finds depends on the gold.
    lines = numbers.original_lines(answer.text, cut=answer.cut)
    if numbers.original_verdict(lines, item.gold):
        return Extracted(item.gold, "the original's rule")
    value, rule = numbers.final_value("\n".join(lines))
    return Extracted(value, f"not by the original's rule; {rule}")


def _score(item: Item, extracted: Extracted, rules: Rules) -> bool:
    if extracted.value is None:
        return False
    if rules.strict:
        return equality.equal(extracted.value, item.gold)
    return extracted.rule == "the original's rule"


def _vote(value: str) -> str:
    number = equality.number(equality.clean(value))
    return value if number is None else f"{number:.9g}"


TASK = Task(
    name="gsm8k",
    title="GSM8K (Chinese)",
    files=(
        DataFile(
            "yuan-datasets/GSM8K/gsm8k_Cn.txt",
            ("c055007a7def707df2f226831d0d7a246f18f9dec4ee337ab7171a6900bd228f",),
        ),
    ),
    read=_read,
    prompt=_prompt,
    extract=_extract,
    score=_score,
    max_tokens=1023,
    items=1319,
    example=_example,
    read_example=_read_example,
    vote=_vote,
)

ENGLISH = replace(
    TASK,
    name="gsm8k_en",
    title="GSM8K (English)",
    files=(
        DataFile(
            "yuan-datasets/GSM8K/gsm8k_En.txt",
            ("2ad8599df3ccd01887b4f0c3d772eacf6dc47ced6534e6764d28c26f610ccc69",),
        ),
        _SOLUTIONS,
    ),
    read=_read_english,
)
