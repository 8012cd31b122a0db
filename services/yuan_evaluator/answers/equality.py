"""Whether two answers are mathematically equal: numbers in any dress, formulas, pairs, sets, intervals, equations.

Bounded in time: trees of at most a few hundred tokens are evaluated at three points; nothing is simplified or run.
"""

import re
from collections.abc import Sequence

from yuan_evaluator.answers import latex
from yuan_evaluator.answers.latex import Formula, NoFormula

_WRAPPERS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit|operatorname|mbox|boldsymbol|bf|rm)\s*\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:! ]|\\(?:quad|qquad|left|right|displaystyle|limits|big|Big|bigg)(?![a-zA-Z])|~")
_CHINESE_UNITS = re.compile(r"(?<=[\d)}％%°])\s*[\u4e00-\u9fff]+(?:/[\u4e00-\u9fff]+)?[.。]?$")
_UNITS = (
    "cm|mm|km|dm|m|kg|mg|g|ml|l|s|h|min|hours?|hrs?|minutes?|seconds?|days?|weeks?|months?|years?|dollars?|cents?|"
    "usd|yuan|meters?|metres?|miles?|feet|foot|inch(?:es)?|pounds?|lbs?|ounces?|oz|mph|percent|degrees?|km/h|m/s"
)
_UNIT = re.compile(
    rf"(?<=[\d)}}])\s*(?:(?:{_UNITS})(?:\^?\{{?[23]\}}?)?|[a-zA-Z]{{4,}}(?: [a-z]+)*)[.]?$", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_THOUSANDS = re.compile(r"\d{3}(?!\d)")
_FRACTION = re.compile(r"([-+]?\d+)/(\d+)")
_RELATIONS = "=<>≤≥≠∈"
_FULL_WIDTH = str.maketrans("０１２３４５６７８９，。；：（）＝＋－％｛｝［］／＜＞", "0123456789,.;:()=+-%{}[]/<>")


def equal(answer: str, gold: str) -> bool:
    """Says whether an answer is the gold one in another dress.

    Args:
        answer: what was extracted; several blanks are joined by `;`.
        gold: the right one.
    """
    if clean(answer) == clean(gold):
        return bool(clean(gold))
    wanted = split(clean(gold), ";")
    given = split(clean(answer), ";")
    if len(wanted) > 1:
        if len(given) != len(wanted):
            given = split(clean(answer), ";,、")
        return len(given) == len(wanted) and all(map(_same, given, wanted))
    return _same(clean(answer), clean(gold))


def clean(text: str) -> str:
    """Returns an answer without what does not change its value: dollars, spacing, fonts, units, a last full stop."""
    text = text.translate(_FULL_WIDTH).replace("\\$", "").replace("$", "").replace("¥", "").replace("￥", "")
    text = text.replace("\\%", "%").replace("\\{", "⟨").replace("\\}", "⟩").replace("−", "-").replace("–", "-")
    text = re.sub(r"\\[()\[\]]", "", text)
    for _ in range(3):
        text = _WRAPPERS.sub(r"\1", text)
    text = _SPACING.sub(" ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\circ(?![a-zA-Z])", "°", text).strip()
    text = text.rstrip(".。;； ").strip()
    text = _CHINESE_UNITS.sub("", text)
    return _UNIT.sub("", text).strip()


def number(text: str) -> float | None:
    """Returns the number that a text is; None where it is more or something else."""
    text = text.replace(" ", "").rstrip("%")
    if text and (match := _NUMBER.fullmatch(text)) and any(map(str.isdigit, text)):
        return float(match[0].replace(",", ""))
    if (match := _FRACTION.fullmatch(text)) and int(match[2]):
        return int(match[1]) / int(match[2]) if len(text) < 40 else None
    return None


def split(text: str, separators: str) -> list[str]:
    """Returns the parts of a text between separators that are in no bracket."""
    parts, depth, start = list[str](), 0, 0
    for index, sign in enumerate(text):
        if sign in "([{⟨":
            depth += 1
        elif sign in ")]}⟩":
            depth = max(0, depth - 1)
        elif sign in separators and depth == 0:
            if sign == "," and _THOUSANDS.match(text, index + 1) and text[max(0, index - 1)].isdigit():
                continue  # 1,200
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()]


def _same(answer: str, gold: str) -> bool:
    if "".join(answer.split()) == "".join(gold.split()):
        return bool(gold)
    answer_percent, gold_percent = answer.endswith("%"), gold.endswith("%")
    one, other = number(answer), number(gold)
    if one is not None and other is not None:
        if answer_percent != gold_percent:  # 40% is 40 where percents are asked for, and 0.4
            percent, plain = (one, other) if answer_percent else (other, one)
            return latex.close(percent, plain) or latex.close(percent / 100, plain)
        return latex.close(one, other)
    if answer_percent != gold_percent and _same_structure(answer.rstrip("%"), gold.rstrip("%")):
        return True
    return _same_structure(answer, gold)


def _same_structure(answer: str, gold: str) -> bool:
    """Compares what is no plain number: unions, sets, pairs and intervals, relations, formulas."""
    for name, of in (("∪", _unordered), (",", _list)):
        ours = split(answer.replace("\\cup", "∪").replace("、", ","), name)
        theirs = split(gold.replace("\\cup", "∪").replace("、", ","), name)
        if len(ours) > 1 or len(theirs) > 1:
            return len(ours) == len(theirs) and of(ours, theirs)
    if _bracketed(answer) and _bracketed(gold):
        if answer[0] + answer[-1] != gold[0] + gold[-1]:
            return False
        inner, wanted = split(answer[1:-1], ","), split(gold[1:-1], ",")
        if len(inner) > 1 or len(wanted) > 1 or answer[0] == "⟨":
            same = _unordered if answer[0] == "⟨" else _list
            return len(inner) == len(wanted) and same(inner, wanted)
    return _same_relation(answer, gold)


def _bracketed(text: str) -> bool:
    """Says whether one pair of brackets encloses all of a text."""
    if len(text) < 2 or text[0] not in "([⟨" or text[-1] not in ")]⟩":
        return False
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign in "([{⟨") - (sign in ")]}⟩")
        if depth == 0 and index < len(text) - 1:
            return False
    return True


def _list(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    return all(map(_same, ours, theirs))


def _unordered(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    left = list(theirs)
    for part in ours:
        found = next((other for other in left if _same(part, other)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _same_relation(answer: str, gold: str) -> bool:
    (ours, our_signs), (theirs, their_signs) = _sides(answer), _sides(gold)
    # `x = 3` answers 3; of an equation that stands alone on one side, what follows counts.
    if our_signs == ["="] and not their_signs:
        ours, our_signs = ours[1:], []
    elif their_signs == ["="] and not our_signs:
        theirs, their_signs = theirs[1:], []
    if len(our_signs) != len(their_signs):
        return False
    turned = [_TURNED.get(sign, sign) for sign in reversed(our_signs)]
    if our_signs == their_signs and all(map(_same_formula, ours, theirs)):
        return True
    if our_signs and turned == their_signs and all(map(_same_formula, list(reversed(ours)), theirs)):
        return True
    return len(our_signs) == 1 and _proportional(ours, our_signs[0], theirs, their_signs[0])


_TURNED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}


def _sides(text: str) -> tuple[list[str], list[str]]:
    for command, sign in (("leqslant", "≤"), ("geqslant", "≥"), ("leq", "≤"), ("geq", "≥"), ("neq", "≠"), ("le", "≤"),
                          ("ge", "≥"), ("ne", "≠"), ("lt", "<"), ("gt", ">"), ("in", "∈")):  # fmt: skip
        text = re.sub(rf"\\{command}(?![a-zA-Z])", sign, text)
    text = text.replace("<=", "≤").replace(">=", "≥")
    sides = [side.strip() for side in re.split(f"[{_RELATIONS}]", text)]
    return sides, re.findall(f"[{_RELATIONS}]", text)


def _same_formula(answer: str, gold: str) -> bool:
    if _plain(answer) == _plain(gold):
        return bool(gold)
    signs = "±" in answer or "\\pm" in answer, "±" in gold or "\\pm" in gold
    if any(signs):
        if not all(signs):
            return False
        pairs = [[re.sub(r"±|\\pm(?![a-zA-Z])", sign, text) for sign in "+-"] for text in (answer, gold)]
        return _unordered(pairs[0], pairs[1])
    one, other = _formula(answer), _formula(gold)
    return one is not None and other is not None and latex.equal(one, other)


def _plain(text: str) -> str:
    return "".join(text.replace("⟨", "{").replace("⟩", "}").split())


def _formula(text: str) -> Formula | None:
    try:
        return latex.parse(text.replace("⟨", "{").replace("⟩", "}"))
    except (NoFormula, ArithmeticError, ValueError, KeyError, RecursionError):
        return None


def _proportional(ours: Sequence[str], our_sign: str, theirs: Sequence[str], their_sign: str) -> bool:
    """Says whether two relations are multiples of one another, as y = 2x and 2x - y = 0 are."""
    formulas = [_formula(f"({sides[0]})-({sides[1]})") for sides in (ours, theirs)]
    one, other = formulas
    if one is None or other is None or one.letters != other.letters or not one.letters:
        return False
    ratios: list[complex] = []
    for point in latex.points(one.letters):
        try:
            ratios.append(one.value(point) / other.value(point))
        except (ArithmeticError, ValueError):
            return False
    if not all(latex.close(ratio, ratios[0]) for ratio in ratios) or abs(ratios[0]) < 1e-9:
        return False
    if our_sign in "=≠":
        return our_sign == their_sign
    return (our_sign if ratios[0].real > 0 else _TURNED.get(our_sign, our_sign)) == their_sign
