"""Personal data replaced by placeholders."""

import ipaddress
import re
from collections.abc import Sequence

from yuan_corpus.cleaning.stage import Dropped

_EMAIL = re.compile(r"(?<![\w.+-])\w[\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])", re.ASCII)
_DATE = r"(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])"
_CHINESE_ID = re.compile(rf"(?<![0-9A-Za-z])[1-9]\d{{5}}{_DATE}\d{{3}}[\dXx](?![0-9A-Za-z])", re.ASCII)
# What is said to be one is, with another check digit too, also of the 15 digits that were given out until 1999.
_SAID_ID = re.compile(r"((?:身份证|身份號|证件号|公民身份)[^\d\n]{0,12})([1-9](?:\d{16}[\dXx]|\d{14}))(?![0-9A-Za-z])")
_MOBILE = re.compile(r"(?<![\d.])(?:(?:\+|00)86[- ]?)?1[3-9]\d(?:[- ]?\d{4}){2}(?![\d.]\d|\d)")
_PHONE = re.compile(
    r"(?<![\w.])(?:\+[1-9]\d{0,2}(?:[-. ]?\(?\d{1,4}\)?){2,5}"
    r"|(?:0\d{2,3}[- ]|[(（]0\d{2,3}[)）][- ]?)\d{7,8}(?:(?:-| ?转 ?)\d{1,6})?"
    r"|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4}|\d{3}\.\d{3}\.\d{4})"
    r"(?![\w-]|\.\d)",
    re.ASCII,  # of which Han are no word characters: numbers stand right beside them
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)", re.ASCII)
# Of 2000::/3, which all global unicast addresses are; `a::b` of C++ is none.
_IPV6 = re.compile(r"(?<![\w:])[23][0-9A-Fa-f]{3}:(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])", re.ASCII)
_SHORTEST = 7
# Lines without one of these have no number of a person or a machine.
_NUMBER = re.compile(r"\d(?:[-. ()]{0,3}\d){6}|\d\.\d{1,3}\.\d", re.ASCII)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)

KINDS = ("email", "id", "phone", "ip")


class PiiMasking:
    """Replaces e-mail addresses, Chinese identity numbers, phone numbers and public IPs.

    An identity number has a right check digit, or a word for it before it.

    Only shapes are known: a number that looks like a phone number is taken for one, a name is not found.
    """

    def __init__(self, kinds: Sequence[str] = KINDS) -> None:
        self._kinds = frozenset(kinds)

    def clean(self, text: str) -> str | Dropped:
        """Returns the text with `<EMAIL>`, `<ID>`, `<PHONE>`, `<IP>` in their places."""
        if "email" in self._kinds and "@" in text:
            text = _EMAIL.sub("<EMAIL>", text)
        if "ip" in self._kinds and ("::" in text or text.count(":") >= 7):
            text = _IPV6.sub(_masked_address, text)
        return self._in_lines(text)

    def _in_lines(self, text: str) -> str:
        """Masks numbers, which no line end may be within, in the lines that have any."""
        pieces: list[str] = []
        done = 0
        while found := _NUMBER.search(text, done):
            start = text.rfind("\n", done, found.start()) + 1 or done
            end = text.find("\n", found.end())
            end = len(text) if end < 0 else end
            pieces += [text[done:start], self._numbers_masked(text[start:end])]
            done = end
        return "".join(pieces) + text[done:] if pieces else text

    def _numbers_masked(self, line: str) -> str:
        if "id" in self._kinds:
            line = _SAID_ID.sub(r"\1<ID>", line)
            line = _CHINESE_ID.sub(lambda match: "<ID>" if is_chinese_id(match.group()) else match.group(), line)
        if "ip" in self._kinds:
            line = _IPV4.sub(_masked_address, line)
        if "phone" in self._kinds:
            line = _PHONE.sub(_masked_phone, _MOBILE.sub("<PHONE>", line))
        return line


def is_chinese_id(number: str) -> bool:
    """Tells whether the check digit of an 18-digit identity number is right (GB 11643-1999)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11] == number[17].upper()


def _masked_phone(match: re.Match[str]) -> str:
    """Returns its placeholder, or the number itself if it is too short for one: `+1 2 3` is a sum."""
    return "<PHONE>" if sum(map(str.isdigit, match.group())) >= _SHORTEST else match.group()


def _masked_address(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return match.group()
    return "<IP>" if address.is_global else match.group()
