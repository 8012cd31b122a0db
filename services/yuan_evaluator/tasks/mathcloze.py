"""AGIEval Gaokao-MathCloze: 118 questions whose answers are formulas, several joined by `;` where there are blanks.

The original ships no scorer: `yuan` scores by AGIEval's own rule of one string after normalization, `strict` by value.
"""

import re
from collections.abc import Mapping

from yuan_evaluator.answers import equality, numbers
from yuan_evaluator.task import INSTRUCTED, Answer, DataFile, Extracted, Item, Rules, Task
from yuan_evaluator.tasks.gsm8k import read_pair

_ANNOUNCED = re.compile(
    r"(?:故?(?:最终)?答案|结果)(?:依次|分别)?(?:应该|应)?(?:填|是|为|等于|[:：])+[:：]?\s*([^\n。]+)|故填[:：]?([^\n。]+)"
)


def _read(line: str, number: int, others: Mapping[str, bytes]) -> Item:
    del others
    question, gold = read_pair(line)
    blanks = len(equality.split(equality.clean(gold), ";"))
    return Item(str(number), question, gold, category=f"{blanks} blank" + "s" * (blanks > 1))


def _prompt(item: Item, rules: Rules) -> str:
    del rules
    return f"{item.question}{INSTRUCTED}"


def _example(item: Item, rules: Rules) -> str:
    del rules
    return f"{item.question}\n答案是{item.gold}。"


def _extract(item: Item, answer: Answer, rules: Rules) -> Extracted:
    text = answer.text if rules.strict or not answer.cut else answer.text[:-5]
    text = text.replace("<eod>", "").replace("<n>", "\n").strip()
    if not text:
        return Extracted(None, "nothing written")
    blanks = len(equality.split(equality.clean(item.gold), ";"))
    return _last_value(text) if not rules.strict else _values(text, blanks)


def _last_value(text: str) -> Extracted:
    """AGIEval's order: the last box, the last formula between dollars, what follows the last `=`, the last number."""
    if found := numbers.boxed(text):
        return Extracted(found[-1], "boxed")
    if found := re.findall(r"\$([^$]+)\$", text):
        return Extracted(found[-1].rpartition("=")[2].strip(), "last formula")
    if "=" in text:
        return Extracted(
            text.rpartition("=")[2].splitlines()[0].strip(" 。.") if text.rpartition("=")[2] else None, "after ="
        )
    found = re.findall(r"-?\d+(?:\.\d+)?(?:/\d+)?", text)
    return Extracted(found[-1] if found else text.splitlines()[-1].strip(" 。."), "last number")


def _values(text: str, blanks: int) -> Extracted:
    """Takes as many values as the question has blanks, from where the answer is announced or its last line."""
    if len(found := numbers.boxed(text)) >= blanks:
        return Extracted(";".join(found[-blanks:]), "boxed")
    announced = [next(filter(None, match.groups())) for match in _ANNOUNCED.finditer(text)]
    if announced and (value := _joined(announced[-1], blanks)):
        return Extracted(value, "announced")
    for line in reversed(text.splitlines()):
        if line.strip() and (value := _joined(line, blanks)):
            return Extracted(value, "last line")
    return Extracted(None, f"no {blanks} values")


def _joined(text: str, blanks: int) -> str:
    """Returns the last values of a line, each what follows its last `=`; empty where there are fewer."""
    formulas = re.findall(r"\$([^$]+)\$", text)
    if len(formulas) < blanks:
        plain = equality.clean(text)
        formulas = [plain] if blanks == 1 and _is_value(plain) else equality.split(plain, ";,、")
    values = [value for part in formulas if (value := _value(part))]
    return ";".join(values[-blanks:]) if len(values) >= blanks else ""


def _is_value(text: str) -> bool:
    return not re.search(r"[\u4e00-\u9fff]", text) and "=" not in text


def _value(text: str) -> str:
    text = re.sub(r"[\u4e00-\u9fff]+", " ", equality.clean(text)).strip(" 。.,:")
    if text.count("=") == 1 and not re.fullmatch(r"\s*\\?[a-zA-Z]{1,3}\w*(?:\([^)]*\))?\s*", text.partition("=")[0]):
        sides = text.split("=")
        return text if re.search(r"[xy]", sides[0]) and re.search(r"[xy]|^0$", sides[1].strip()) else sides[1].strip()
    if text.startswith("y=") and "x" in text:
        return text
    return text.rpartition("=")[2].strip()


def _score(item: Item, extracted: Extracted, rules: Rules) -> bool:
    if not extracted.value:
        return False
    if rules.strict:
        return equality.equal(extracted.value, item.gold)
    return normal_form(extracted.value) == normal_form(item.gold)


def normal_form(text: str) -> str:
    """Returns a formula's text as AGIEval compares it: without spacing, units and a leading `x=`; 0.5 is a half."""
    text = equality.clean(text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").rstrip("%°")
    text = "".join(text.split())
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text))
    if re.fullmatch(r"[a-zA-Z]\w?=.+", text):
        text = text.partition("=")[2]
    text = re.sub(r"(?<![\d.])\.(\d)", r"0.\1", text)
    text = {"0.5": "\\frac{1}{2}"}.get(text, text)
    return re.sub(r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}", text)


TASK = Task(
    name="mathcloze",
    title="AGIEval Gaokao-MathCloze",
    files=(
        DataFile(
            "yuan-datasets/AGIEval-Math/mathcloze.txt",
            ("d88b1d3ec5f48fa2eee66c35b5f2857fbd0724457513603cb50735b80a150a25",),
        ),
    ),
    read=_read,
    prompt=_prompt,
    extract=_extract,
    score=_score,
    max_tokens=1023,
    items=118,
    example=_example,
    vote=normal_form,
)
