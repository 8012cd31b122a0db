"""Personal data replaced by placeholders. What they look like is in `private_numbers.py`."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from yuan_corpus.cleaning import private_numbers as shapes
from yuan_corpus.cleaning.stage import Dropped

# Lines without one of these have no number of a person or a machine.
_NUMBER = re.compile(r"\d(?:[-. ()]{0,3}\d){6}|\d\.\d{1,3}\.\d", re.ASCII)

KINDS = ("email", "id", "card", "phone", "ip")
PRIVATE_ADDRESSES = ("keep", "mask")

_Rule = tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]]


class PiiMasking:
    """Replaces e-mail addresses, Chinese identity numbers, payment cards, phone numbers and IPs.

    They may be written in groups (`138 1234 5678`) and in full-width characters (１３８…). An identity number has a
    right check digit, or a word for it before it; a card the digit of Luhn's sum, or such a word. IPs are public ones,
    and where `private_addresses` is `mask` private ones too, but for 127.0.0.1 and 0.0.0.0.

    Only shapes are known: a number that looks like a phone number is taken for one, a name is not found.
    """

    def __init__(self, kinds: Sequence[str] = KINDS, private_addresses: str = "keep") -> None:
        self._kinds = frozenset(kinds)
        self._is_address = partial(shapes.is_address, private=private_addresses == "mask")
        self._rules = list(self._rules_of_numbers())

    def _rules_of_numbers(self) -> Iterator[_Rule]:
        if "id" in self._kinds:
            yield "<ID>", shapes.SAID_ID, bool
            yield "<ID>", shapes.CHINESE_ID, shapes.is_written_id
        if "card" in self._kinds:
            yield "<CARD>", shapes.SAID_CARD, bool
            yield "<CARD>", shapes.CARD, shapes.is_card
        if "ip" in self._kinds:
            yield "<IP>", shapes.IPV4, self._is_address
        if "phone" in self._kinds:
            for pattern in (shapes.MOBILE, shapes.SAID_PHONE, shapes.PHONE):
                yield "<PHONE>", pattern, shapes.is_phone

    def clean(self, text: str) -> str | Dropped:
        """Returns the text with `<EMAIL>`, `<ID>`, `<CARD>`, `<PHONE>`, `<IP>` in their places."""
        plain = shapes.narrowed(text)
        if "email" in self._kinds and "@" in plain:
            text, plain = _replaced(text, plain, "<EMAIL>", _emails(plain))
        if "ip" in self._kinds and ("::" in plain or plain.count(":") >= 7):
            text, plain = _replaced(text, plain, "<IP>", _spans(plain, shapes.IPV6, self._is_address))
        return self._in_lines(text, plain)

    def _in_lines(self, text: str, plain: str) -> str:
        """Masks numbers, which no line end may be within, in the lines that have any."""
        pieces: list[str] = []
        done = 0
        while found := _NUMBER.search(plain, done):
            start = plain.rfind("\n", done, found.start()) + 1 or done
            end = plain.find("\n", found.end())
            end = len(plain) if end < 0 else end
            pieces += [text[done:start], self._numbers_masked(text[start:end], plain[start:end])]
            done = end
        return "".join(pieces) + text[done:] if pieces else text

    def _numbers_masked(self, line: str, plain: str) -> str:
        for mask, pattern, judge in self._rules:
            line, plain = _replaced(line, plain, mask, _spans(plain, pattern, judge))
        return line


def _spans(plain: str, pattern: re.Pattern[str], judge: Callable[[re.Match[str]], bool]) -> Iterator[tuple[int, int]]:
    """Yields the places of what an expression finds and a judge confirms; of its number, if it has one."""
    group = "number" if "number" in pattern.groupindex else 0
    for match in pattern.finditer(plain):
        if judge(match):
            yield match.span(group)


def _emails(plain: str) -> Iterator[tuple[int, int]]:
    at, done = plain.find("@"), 0
    while at >= 0:
        place = shapes.email_at(plain, at)
        if place is not None and place[0] >= done:
            yield place
            done = place[1]
        at = plain.find("@", at + 1)


def _replaced(text: str, plain: str, mask: str, places: Iterator[tuple[int, int]]) -> tuple[str, str]:
    """Returns both texts, which are the same or as long as each other, with a mask in some places."""
    found = list(places)
    if not found:
        return text, plain
    masked = _with_mask(plain, mask, found)
    return (masked if text is plain else _with_mask(text, mask, found)), masked


def _with_mask(text: str, mask: str, places: Sequence[tuple[int, int]]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end in places:
        pieces += [text[done:start], mask]
        done = end
    return "".join([*pieces, text[done:]])
