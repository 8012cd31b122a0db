"""Which option an answer in Chinese or English prose chooses: an ordered list of patterns; the first that fits decides.

The order is the original's (its score_mathqa.py, described in YUAN_FACTS B7): phrases that announce an answer, then
what is said of single statements by the question's polarity, then loose mentions in the last lines.
"""

import re
import unicodedata
from collections.abc import Iterable

_NEGATIVE = ("错误", "不合理", "不正确", "不是", "不会", "不发生", "False", "无法推断")
_WRAPPERS = re.compile(r"\\(?:rm|text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}|<font[^>]*>(.*?)</font>")
_SEPARATORS = r"[,，、和与及;；]*"
_OPEN, _CLOSE = r"[（(【\[“\"'{]*", r"[)）】\]”\"'}]*"


def chosen(text: str, question: str = "", labels: str = "ABCD") -> tuple[str | None, str]:
    """Returns the letters that an answer chooses, sorted and each once, and the rule that found them.

    Args:
        text: the answer.
        question: of which some words tell whether the wrong statement is asked for, and whether there are several.
        labels: letters that are options.
    """
    plain = _plain(text, labels)
    if (only := re.fullmatch(rf"{_OPEN}([{labels}](?:{_SEPARATORS}[{labels}])*){_CLOSE}[.。．]?", plain)) is not None:
        return _sorted(only[1]), "letters alone"
    for pattern, rule in _announcements(labels):
        if found := re.findall(pattern, plain):
            return _sorted(found[-1]), rule
    negative = any(word in question for word in _NEGATIVE)
    for pattern, rule in _statements(labels, negative=negative):
        if found := re.findall(pattern, plain):
            return _sorted(found), rule
    return _loose(text, question, labels)


def _plain(text: str, labels: str) -> str:
    for _ in range(3):
        text = _WRAPPERS.sub(lambda match: match[1] or match[2] or "", text)
    text = re.sub(r"[\s$]|\\(?:rm|bf)(?![a-zA-Z])", "", text)
    return "".join(unicodedata.normalize("NFKC", sign) if "Ａ" <= sign <= "Ｚ" else sign for sign in text)


def _sorted(found: str | Iterable[str]) -> str:
    return "".join(sorted({sign for part in found for sign in part if sign.isascii() and sign.isalpha()}))


def _announcements(labels: str) -> list[tuple[str, str]]:
    letters = rf"{_OPEN}([{labels}](?:{_SEPARATORS}[{labels}])*)(?![a-z]){_CLOSE}"
    mark = "[:：]?(?:选项|选)?"
    after = rf"(?:的?选项)?(?:是|为|选|应为|应选)?{mark}{letters}"
    return [
        (rf"故选{mark}择?项?{letters}", "故选X"),
        (rf"(?:故答案为|正确答案是|正确答案为|答案选项为|正确选项是|正确选项为){mark}{letters}", "故答案为X"),
        (rf"(?:故填|答案为|答案是|答案[:：]|故应选|所以选|本题选|因此选|答案选){mark}{letters}", "答案为X"),
        (rf"(?:故本题选|故选项为|故答案选|故选答案|本题选择|答案应为|答案应选){mark}{letters}", "故本题选X"),
        (rf"正确的(?:选项|说法|叙述|表述|做法|结论|命题){after}", "正确的选项是X"),
        (rf"故(?:选项)?{letters}(?:选项)?(?:项)?符合题意", "故X符合题意"),
        (rf"故(?:选项)?{letters}(?:选项)?(?:项)?入选", "故X入选"),
        (rf"选项{letters}(?:项)?符合", "选项X符合"),
        (rf"选项{letters}[^{labels}。]*故入选", "选项X故入选"),
        (rf"(?<!不)(?<!可)选{mark}{letters}[.。．]", "选X."),
        (rf"(?<!不)(?:故为|应选|选择){mark}{letters}", "选择X"),
        (rf"(?i:answer(?:is)?[:：]?(?:option)?){letters}", "answer is X"),
    ]


def _statements(labels: str, *, negative: bool) -> list[tuple[str, str]]:
    one = rf"(?:选项)?([{labels}])(?:选项|项)?"
    if negative:
        return [
            (rf"(?:不正确|错误|不合理)的(?:选项|说法|叙述|是|为|一项)*[:：]?{_OPEN}{one}", "不正确的是X"),
            (rf"{one}(?:的?(?:说法|叙述|表述)?)?(?:是)?(?:错误|不正确|不合理|错)", "X错误"),
        ]
    return [
        (rf"正确的[^{labels}。,，]*(?:是|为|有)[:：]?{_OPEN}{one}", "正确的是X"),
        (rf"{one}(?:的?(?:说法|叙述|表述)?)?(?:是)?(?:正确|合理|成立|对(?!应))", "X正确"),
    ]


def _loose(text: str, question: str, labels: str) -> tuple[str | None, str]:
    lines = [_plain(line, labels) for line in text.splitlines() if line.strip()]
    letters = rf"{_OPEN}([{labels}](?:{_SEPARATORS}[{labels}])*){_CLOSE}"
    for line in reversed(lines[-2:]):
        for pattern in (rf"(?:(?<!不)选|答|为|是|:|：){letters}[.。．]?$", rf"^{letters}(?:[.。．]|项|选项|$)"):
            if found := re.findall(pattern, line):
                return _sorted(found[-1]), "last lines"
    whole = _plain(text, labels)
    alone = set(re.findall(rf"(?<![A-Za-z选除])([{labels}])(?:选项|项|[.。．、,，]|$)(?![A-Za-z])", whole))
    if len(alone) == 1 or (alone and "多选" in question):
        return _sorted(alone), "the only options named"
    return None, "nothing found" if not alone else "several options named"
