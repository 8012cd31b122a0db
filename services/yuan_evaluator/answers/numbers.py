"""The last number of a worked solution: the original's rule for GSM8K, and one without its holes."""

import re

from yuan_evaluator.answers import equality

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?"
_MARKED = re.compile(
    r"####\s*([^\n]+)|(?:最终)?(?:答案|结果)\s*(?:应该|应)?(?:是|为|等于|[:：=])\s*([^\n]+)"
    r"|(?i:answer)\s*(?i:is|=|:|：)\s*:?\s*([^\n]+)"
)
_VALUE = re.compile(
    r"-?(?:\\[dt]?frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{[^{}]*\}|\d)|(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?)(?:\s*/\s*\d+)?\s*\\?%?"
)


def original_lines(text: str, *, cut: bool) -> list[str]:
    """Returns the lines of an answer as the original's scorer sees them.

    Args:
        text: the answer.
        cut: whether it had become too long: the original took five characters off every answer, meant for the
            `<eod>` of those that ended by themselves.
    """
    if cut:
        text = text[:-5]
    for mark in ("<pad>", "<eod>"):
        text = text.replace(mark, "")
    text = text.strip().replace("\n", "<n>").replace("<br>", "<n>")
    text = re.sub(r"(?:<n>)+", "<n>", text).removesuffix("<n>")
    text = re.sub(r"\\boxed\{(-?[\d.,/]+)\}", r"\1", text)
    text = re.sub(r"\\[!;,]|[$ ]", "", text).replace("≈", "=")
    return text.split("<n>")


def original_verdict(lines: list[str], gold: str) -> bool:
    """Says whether the original's scorer would call an answer right (its crashes mended).

    Mended: the gold is that of the item, where the original looked it up by a question that carries the prompt; a gold
    or a number that is none (`1/0`) is unequal instead of an error.
    """
    gold = gold.replace(" ", "")
    index = next((at for at in range(-1, -min(3, len(lines)) - 1, -1) if re.search(r"\d", lines[at])), -1)
    last = lines[index]
    candidate = re.sub(r"\\frac\{(-?\d+)\}\{(-?\d+)\}", r"\1/\2", last.rpartition("=")[2].replace("\\%", "%"))
    if _holds(candidate, gold):
        return True
    numbers = re.findall(_NUMBER, candidate)
    if "=" not in last and not numbers and len(lines) > -index and _holds(lines[index - 1].rpartition("=")[2], gold):
        return True
    wanted = equality.number(gold)
    return wanted is not None and any(equality.number(text.rstrip(",")) == wanted for text in numbers[-3:])


def _holds(text: str, gold: str) -> bool:
    return bool(gold) and re.search(rf"(?<![\d+\-*/]){re.escape(gold)}(?![\dxyz+\-*/,^(]|\.\d)", text) is not None


def final_value(text: str) -> tuple[str | None, str]:
    """Returns the value that a solution ends with, and the rule that found it.

    In this order: the last box, the last announced answer (`####`, 答案是, the answer is), the last number.
    """
    if found := boxed(text):
        return found[-1], "boxed"
    for match in reversed(list(_MARKED.finditer(text))):
        rest = next(group for group in match.groups() if group is not None)
        if value := _first_value(rest.rpartition("=")[2]) or _first_value(rest):
            return value, "announced"
    last = ""
    for line in reversed(text.splitlines()):
        values = _values(line.rpartition("=")[2]) or _values(line)
        if values:
            last = values[-1]
            break
    return (last, "last number") if last else (None, "no number")


def boxed(text: str) -> list[str]:
    """Returns what stands in box of a text."""
    found: list[str] = []
    for match in re.finditer(r"\\boxed\s*\{", text):
        depth, start = 1, match.end()
        for at in range(start, len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                found.append(text[start:at].strip())
                break
    return found


def _first_value(text: str) -> str:
    values = _values(text)
    return values[0] if values else ""


def _values(text: str) -> list[str]:
    text = text.replace("$", "").replace("\\!", "")
    return [value for match in _VALUE.finditer(text) if re.search(r"\d", value := match[0].strip())]
