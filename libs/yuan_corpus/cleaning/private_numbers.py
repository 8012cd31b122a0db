"""Shapes of addresses and numbers that belong to a person or a machine, and what ordinary numbers look like one.

Expressions and what must hold beyond them; which are looked for, and what stands in their place, is in `private.py`.
Where an expression has a group, that is the number: what is before it is the word that tells what it is.
"""

import ipaddress
import re

_WIDE = {
    **{code: code - 0xFEE0 for first, last in ((0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A))
       for code in range(first, last + 1)},
    **dict(zip(map(ord, "＠．－＋（）＿\u3000\u2010\u2011\u2012\u2013\u2212"), map(ord, "@.-+()_ -----"), strict=True)),
}  # fmt: skip
_IS_WIDE = re.compile(r"[０-９＠]|[0-9][－\u2010-\u2013\u2212][0-9]")


def narrowed(text: str) -> str:
    """Returns the text with full-width digits, letters and what joins them as ASCII's, at the same places."""
    return text.translate(_WIDE) if not text.isascii() and _IS_WIDE.search(text) else text


# --- e-mail ----------------------------------------------------------------------------------------------------------

_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])"
    rf"|(?:[A-Za-z0-9{_HAN}-]{{1,63}}\.)+"
    r"(?:[A-Za-z]{2,24}(?![\w-])|中国|中國|公司|网络|網絡|在线|中文网|商城|香港|台湾|台灣|集团|政务|公益|网址|网店)",
    re.ASCII,
)
_LOCAL = re.compile(r"(?<![\w%])\w[\w.+%'-]{0,63}$", re.ASCII)
_HAN_LOCAL = re.compile(rf"[{_HAN}](?:[{_HAN}\w.+-]*[{_HAN}\w])?$", re.ASCII)
# Words that lead to an address; without one before them, a name has four characters or fewer.
_LEADS = re.compile(r"[到给給寄至往为為是箱址件系係叫或和与與及]")
_LONGEST_NAME = 4


def email_at(text: str, at: int) -> tuple[int, int] | None:
    """Returns the place of the address whose `@` is at a place of the text; None: it is of none.

    A local part in Han has no beginning that can be seen: it is what follows a word such as 到 or 邮箱, or four
    characters.
    """
    domain = _DOMAIN.match(text, at + 1)
    if domain is None:
        return None
    before = text[max(0, at - 64) : at]
    local = _LOCAL.search(before)
    if local is not None:
        return at - len(local.group()), domain.end()
    named = _HAN_LOCAL.search(before)
    if named is None:
        return None
    name = named.group()
    leads = [lead.end() for lead in _LEADS.finditer(name, 0, len(name) - 1)]
    begin = leads[-1] if leads else max(0, len(name) - _LONGEST_NAME) if not re.search(r"[\w.+-]", name, re.A) else 0
    return at - len(name) + begin, domain.end()


# --- identity numbers ------------------------------------------------------------------------------------------------

_DATE = r"(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])"
CHINESE_ID = re.compile(
    rf"(?<![0-9A-Za-z])(?:[1-9]\d{{5}}([ -]?){_DATE}\1\d{{3}}[\dXx]"
    r"|[1-9]\d{5}([ -])\d{4}\2\d{4}\2\d{3}[\dXx]|[1-9]\d{3}([ -])\d{4}\3\d{4}\3\d{4}\3\d[\dXx]"
    r"|[1-9]\d{2}([ -])\d{3}\4\d{4}\4\d{4}\4\d{3}[\dXx])"
    r"(?![0-9A-Za-z])",
    re.ASCII,
)
# What is said to be one is, with another check digit too, also of the 15 digits that were given out until 1999.
SAID_ID = re.compile(
    r"(?:身[份分][证證]|身份號|[证證]件[号號]|公民身份)[^\d\n]{0,12}"
    r"(?P<number>[1-9](?:(?:[ -]?\d){16}[ -]?[\dXx]|(?:[ -]?\d){14}))(?![0-9A-Za-z])",
    re.ASCII,
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def is_chinese_id(number: str) -> bool:
    """Tells whether the check digit of an 18-digit identity number is right (GB 11643-1999)."""
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number, strict=False))
    return "10X98765432"[total % 11] == number[17].upper()


def is_written_id(match: re.Match[str]) -> bool:
    """Tells whether a number, perhaps in groups, has a date and the check digit where an identity number has them."""
    number = re.sub(r"[ -]", "", match.group())
    return bool(re.fullmatch(_DATE, number[6:14])) and is_chinese_id(number)


# --- payment cards ---------------------------------------------------------------------------------------------------

# Visa, Mastercard, American Express, Discover, JCB, UnionPay: in a row, or in the groups that are on the card; of
# Mastercard's that begin with 22 to 27, as numbers with a date do, those in groups.
CARD = re.compile(
    r"(?<![\w.])(?:(?:4\d|5[1-5]|35|6[05])\d{14}|62\d{14,17}|3[47]\d{2}([ -]?)\d{6}\1\d{5}"
    r"|(?:4\d|5[1-5]|2[2-7]|35|6[025])\d{2}([ -])\d{4}\2\d{4}\2\d{4}(?:(?<=62.{17})\2\d{3})?)"
    r"(?!\w|\.\d)",
    re.ASCII,
)
SAID_CARD = re.compile(
    r"(?:[银銀]行卡|信用卡|[储儲]蓄卡|借[记記]卡|卡[号號]|[银銀]行[账帐賬]?[号號]|(?:[Cc]redit|[Dd]ebit|[Bb]ank) card)"
    r"[^\d\n]{0,8}(?P<number>\d(?:[ -]?\d){11,18})(?!\w|\.\d|[ -]\d)",
    re.ASCII,
)
_CARD_LENGTHS = range(15, 20)
_NINE = 9


def is_card(match: re.Match[str]) -> bool:
    """Tells whether a number of a card's beginning and length ends with the digit of Luhn's sum."""
    digits = [int(digit) for digit in match.group() if digit.isdigit()]
    doubled = [digit * 2 - _NINE * (digit * 2 > _NINE) for digit in digits[-2::-2]]
    return len(digits) in _CARD_LENGTHS and len(set(digits)) > 1 and (sum(digits[::-2]) + sum(doubled)) % 10 == 0


# --- phone numbers ---------------------------------------------------------------------------------------------------

# Not within a word or a hash, but for words that mean a phone.
_BEGIN = r"(?:(?<![\w.])|(?<=[Tt][Ee][Ll])|(?<=[Hh]one)|(?<=obile))"
_END = r"(?![\d_]|\.\d|[A-Za-z]{1,8}\d|-\d)"
MOBILE = re.compile(
    rf"{_BEGIN}(?:(?:\+|00)?86[- ]?)?1(?:3\d|4[014-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])"
    rf"(?:\d{{8}}|([- .])\d{{4}}\1\d{{4}}|-\d{{3}}-\d{{5}}|\d-\d{{3}}-\d{{4}}|\d-\d{{4}}-\d{{3}}){_END}",
    re.ASCII,
)
PHONE = re.compile(
    r"(?<![\w.])(?:\+[1-9]\d{0,2}(?:[-. ]?\(?\d{1,4}\)?){2,5}"
    r"|(?:(?:010|02\d|0[3-9]\d{2})[- ]|[(（](?:010|02\d|0[3-9]\d{2})[)）][- ]?)"
    r"\d{3,4}[- ]?\d{4}(?:(?:-| ?转 ?)\d{1,6})?"
    r"|(?:1[-. ])?(?:\([2-9]\d{2}\) ?\d{3}-\d{4}|[2-9]\d{2}-\d{3}-\d{4}|[2-9]\d{2}\.\d{3}\.\d{4}))"
    r"(?![\w-]|\.\d)",
    re.ASCII,  # of which Han are no word characters: numbers stand right beside them
)
SAID_PHONE = re.compile(
    r"(?:(?:[电電][话話]|手[机機]|[热熱][线線]|[传傳]真|微信|[Tt]el(?:ephone)?|[Pp]hone|[Mm]obile|[Ff]ax)"
    r"(?:[号號][码碼]?| number| no)?\.?[ ]?[:：是为為]|[电電][话話](?:[号號][码碼]?)?|手[机機][号號][码碼]?|致[电電]) ?"
    r"(?P<number>[+(（]?\d(?:[-. ()（）]{0,2}\d){6,14})(?!\w|\.\d| ?[-,] ?\d)",
    re.ASCII,
)
_UNITS = re.compile(
    r" ?(?:[元万萬亿億个個人次件股吨噸台部份%％‰℃]|美元|欧元|[公千]?[里米克斤]|人民[币幣]|(?:USD|RMB|CNY|EUR)\b|dollars"
    r"|[*^×÷]|[+=] ?\d)"
)
_MONEY = re.compile(r"[$¥￥€£*^×÷]\s?$")
# What stands beside what is one of a row of numbers, as in `158 2000 3000 4000`, or the end of a longer one.
_ROW_BEFORE, _ROW_AFTER = re.compile(r"\d{3} $", re.ASCII), re.compile(r" \d{3,4}(?!\d)", re.ASCII)
_PART = re.compile(r"\d-$", re.ASCII)
_MOBILE_BEFORE = re.compile(r"1[3-9](?:[ .-]?\d){9} $", re.ASCII)
_MOBILE_AFTER = re.compile(r" 1[3-9](?:[ .-]?\d){9}(?!\d)", re.ASCII)
_ROUND = "000000"
_SHORTEST, _LONGEST = 8, 15
_DIGITS = {"1": (11, 11), "7": (11, 11), "86": (11, 14)}


def is_phone(match: re.Match[str]) -> bool:
    """Tells whether what looks like a phone number is no amount, no round number, and long enough for its country."""
    name = "number" if match.groupdict() else 0
    text, (start, end) = match.string, match.span(name)
    number = match.group(name)
    digits = "".join(filter(str.isdigit, number))
    if digits.endswith(_ROUND) or _UNITS.match(text, end) or _MONEY.search(text, max(0, start - 3), start):
        return False
    if not number.startswith("+"):
        return name == "number" or number.isdigit() or not _is_in_row(text, start, end)
    least, most = next((size for code, size in _DIGITS.items() if digits.startswith(code)), (_SHORTEST, _LONGEST))
    # `+100 000 000`, `x +12345678` and `+35236450.6` are numbers.
    separators = re.sub(r"\d", "", number[1:])
    in_groups = separators not in {"", "."}
    return least <= len(digits) <= most and (in_groups or len(digits) > _SHORTEST + 1)


def _is_in_row(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 16) : start]
    return bool(
        _PART.search(before)
        or (_ROW_BEFORE.search(before) and not _MOBILE_BEFORE.search(before))
        or (_ROW_AFTER.match(text, end) and not _MOBILE_AFTER.match(text, end))
    )


# --- addresses of machines -------------------------------------------------------------------------------------------

IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d|\.in-addr)", re.ASCII)
# Of 2000::/3, which all global unicast addresses are, and private ones; `a::b` of C++ is none.
IPV6 = re.compile(
    r"(?<![\w:])(?:[23][0-9A-Fa-f]{3}|[Ff](?:[CDcd][0-9A-Fa-f]|[Ee][89ABab])[0-9A-Fa-f])"
    r":(?:[0-9A-Fa-f]{0,4}:){1,6}[0-9A-Fa-f]{0,4}(?![\w:])",
    re.ASCII,
)
_VERSION = re.compile(
    r"(?:version|release|build|\bver|\bv|\brev|版本?|第|[章节節]|sections?)[号號.]?[ :：=\"“]{0,3}$"
    r"|[a-z]-$|[<>=!~]=[ '\"]{0,2}$|[<>] ?$",
    re.IGNORECASE,
)
# What is said of an address, as of one with small numbers it must be: `15.5.4.11` is mostly a section or a version.
_OF_ADDRESS = re.compile(
    r"(?<![a-z])(?:ip|ipv4|inet|addr|address|host|server|dns|gateway|ping|client|login|from|to|at|via|proxy|peer|remote|ssh"
    r"|telnet|curl)(?![a-z])[^\d\n]{0,6}$|(?:地址|服务器|主机|网关|登录|来自|自|@|://)[^\d\n]{0,4}$",
    re.IGNORECASE,
)
_PORT = re.compile(r":\d{2,5}(?!\d)|/\d{1,2}(?!\d)", re.ASCII)
_SMALL, _MOST_SMALL = 30, 3


def is_address(match: re.Match[str], *, private: bool) -> bool:
    """Tells whether a match is a public address, or a private one if those are wanted: no version, no section."""
    try:
        address = ipaddress.ip_address(match.group())
    except ValueError:
        return False
    if address.is_multicast or (not address.is_global and not (private and _is_private(address))):
        return False
    before = match.string[max(0, match.start() - 16) : match.start()]
    if isinstance(address, ipaddress.IPv4Address) and address.is_global and not _pairs(address):
        told = _OF_ADDRESS.search(before) or _PORT.match(match.string, match.end())
        if sum(number <= _SMALL for number in address.packed) >= _MOST_SMALL and not told:
            return False
    return not _VERSION.search(before)


def _pairs(address: ipaddress.IPv4Address) -> bool:
    """Tells whether it is like 8.8.4.4 or 1.1.1.1, which nothing else is."""
    first, second, third, fourth = address.packed
    return first == second and third == fourth


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_private and not (address.is_loopback or address.is_unspecified or address.is_reserved)
