"""Formulas of answers as values that can be compared: LaTeX and plain text, without evaluating either as code.

A formula becomes a tree, and trees are compared by their values at a few points: equal there to nine digits is equal.
What is no formula (a word, a set described in words) is compared as text, in `equality.py`.
"""

import cmath
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LARGEST = 1e15
_MOST_TOKENS = 400

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+\.?)|\\(?P<command>[a-zA-Z]+)|(?P<name>[a-zA-Zα-ωΑ-Ω])"
    r"|(?P<sign>[-+*/^_(){}\[\]|!,=<>≤≥≠%:×÷·±√π∞°∪∈]))"
)
_COMMANDS = {
    "cdot": "*", "times": "*", "div": "/", "pm": "±", "leq": "≤", "le": "≤", "leqslant": "≤", "geq": "≥", "ge": "≥",
    "geqslant": "≥", "neq": "≠", "ne": "≠", "lt": "<", "gt": ">", "cup": "∪", "in": "∈", "mid": "|", "vert": "|",
    "lvert": "|", "rvert": "|", "infty": "∞", "pi": "π", "degree": "°",
}  # fmt: skip
_SIGNS = {"×": "*", "·": "*", "÷": "/", ":": "/"}
_FUNCTIONS: Mapping[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "ln": cmath.log, "lg": cmath.log10, "log": cmath.log10,
    "exp": cmath.exp, "arcsin": cmath.asin, "arccos": cmath.acos, "arctan": cmath.atan, "sqrt": cmath.sqrt,
    "cot": lambda x: 1 / cmath.tan(x), "sec": lambda x: 1 / cmath.cos(x), "csc": lambda x: 1 / cmath.sin(x),
}  # fmt: skip
_CLOSING = {"(": ")", "{": "}", "[": "]", "|": "|"}
_CONSTANTS = {"π": complex(math.pi), "e": complex(math.e), "i": 1j, "∞": complex(math.inf)}

Value = Callable[[Mapping[str, complex]], complex]
"""A formula: from values of its letters to its own."""


class NoFormula(ValueError):
    """A text is no formula that is understood here."""


@dataclass(frozen=True)
class Formula:
    """A formula and the letters in it."""

    value: Value
    letters: frozenset[str]


def parse(text: str) -> Formula:
    """Reads a formula without relations, commas or sets.

    Raises:
        NoFormula: if it is none, or has ± in it.
    """
    parser = _Parser(_tokens(text))
    value = parser.sum()
    if parser.here is not None:
        raise NoFormula(f"{parser.here!r} is left over")
    return Formula(value, frozenset(parser.letters))


def equal(one: Formula, other: Formula) -> bool:
    """Says whether two formulas have the same value, wherever both have one."""
    if one.letters != other.letters:
        return False
    seen = 0
    for point in points(one.letters | other.letters):
        try:
            left, right = one.value(point), other.value(point)
        except (ArithmeticError, ValueError):
            continue
        if not close(left, right):
            return False
        seen += 1
    return seen > 0


def points(letters: frozenset[str]) -> list[dict[str, complex]]:
    """Returns values to try for letters: the same for the same letters, and nothing special."""
    return [
        {
            letter: complex(
                0.3 + 1.7 * int.from_bytes(hashlib.sha256(f"{trial}{letter}".encode()).digest()[:4]) / 2**32
            )
            for letter in letters
        }
        for trial in range(3 if letters else 1)
    ]


def close(left: complex, right: complex) -> bool:
    """Says whether two values are equal to nine digits."""
    if cmath.isinf(left) or cmath.isinf(right):
        return left == right
    return abs(left - right) <= 1e-9 * max(1.0, abs(left), abs(right))


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    position = 0
    text = text.strip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NoFormula(f"{text[position : position + 10]!r} is no part of a formula")
        position = match.end()
        if number := match["number"]:
            found.append(number.replace(",", ""))
        elif command := match["command"]:
            found.append(_COMMANDS.get(command, f"\\{command}"))
        else:
            sign = match["name"] or match["sign"]
            found.append(_SIGNS.get(sign, sign))
        if len(found) > _MOST_TOKENS:
            raise NoFormula("too long")
    return found


class _Parser:
    """Recursive descent over tokens; every method returns the value of what it has read."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.letters: set[str] = set()

    @property
    def here(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *wanted: str) -> str | None:
        if self.here is not None and (not wanted or self.here in wanted):
            self._at += 1
            return self._tokens[self._at - 1]
        return None

    def _expect(self, sign: str) -> None:
        if self._take(sign) is None:
            raise NoFormula(f"{sign} is missing")

    def sum(self) -> Value:
        self._depth += 1
        if self._depth > 40:
            raise NoFormula("too deep")
        value = self._product()
        while sign := self._take("+", "-"):
            value = _added(value, self._product(), 1 if sign == "+" else -1)
        self._depth -= 1
        return value

    def _product(self) -> Value:
        negative = False
        while sign := self._take("-", "+"):
            negative ^= sign == "-"
        value = self._power()
        while True:
            if self._take("*"):
                value = _times(value, self._signed())
            elif self._take("/"):
                value = _over(value, self._signed())
            elif self._begins_factor():
                value = _times(value, self._power())
            else:
                break
        return (lambda at: -value(at)) if negative else value

    def _signed(self) -> Value:
        if self._take("-"):
            inner = self._power()
            return lambda at: -inner(at)
        self._take("+")
        return self._power()

    def _begins_factor(self) -> bool:
        here = self.here
        return here is not None and (
            here in ("(", "{", "π", "∞", "√") or here.startswith("\\") or here[0].isalnum() or here[0] == "."
        )

    def _power(self) -> Value:
        value = self._atom()
        while True:
            if self._take("^"):
                if self._take("°") or (self.here == "\\circ" and self._take()):
                    continue
                value = _raised(value, self._group())
            elif self._take("!"):
                value = _factorial(value)
            elif self._take("%"):
                value = _times(value, lambda at: complex(0.01))
            elif self._take("°"):
                pass
            else:
                return value

    def _group(self) -> Value:
        """Reads what a command or a power takes: braces, or one token."""
        if self._take("{"):
            value = self.sum()
            self._expect("}")
            return value
        here = self.here
        if here is not None and len(here) > 1 and here.isdigit():  # \frac12 is a half, 2^10 is as it looks in text
            self._at += 1
            return _constant(float(here))
        if self._take("-"):
            inner = self._group()
            return lambda at: -inner(at)
        return self._atom()

    def _atom(self) -> Value:
        sign = self._take()
        if sign is None:
            raise NoFormula("ends too early")
        if sign[0].isdigit() or sign[0] == ".":
            return self._number(sign)
        if sign in _CLOSING:
            value = self.sum()
            self._expect(_CLOSING[sign])
            return (lambda at: complex(abs(value(at)))) if sign == "|" else value
        if sign.startswith("\\"):
            return self._command(sign[1:])
        return self._named(sign)

    def _named(self, sign: str) -> Value:
        if sign == "√":
            inner = self._group()
            return lambda at: cmath.sqrt(inner(at))
        if sign in _CONSTANTS:
            return _constant(_CONSTANTS[sign])
        if sign.isalpha():
            return self._letter(sign)
        raise NoFormula(f"{sign!r} stands where a value is expected")

    def _number(self, token: str) -> Value:
        whole = float(token)
        if not math.isfinite(whole):
            raise NoFormula("too large")
        if "." not in token and self.here in ("\\frac", "\\dfrac", "\\tfrac"):
            before = self._at
            self._at += 1
            top, bottom = self._fraction()
            with_letters = bool(self.letters)
            if not with_letters:
                value = _over(top, bottom)({})
                if 0 < value.real < 1:  # a mixed number
                    return _constant(whole + value)
            self._at = before
        return _constant(whole)

    def _fraction(self) -> tuple[Value, Value]:
        top = self._digit_or_group()
        return top, self._digit_or_group()

    def _digit_or_group(self) -> Value:
        """Reads an argument of a fraction; of two digits that follow it the first alone."""
        here = self.here
        if here is not None and len(here) > 1 and here.isdigit():
            self._tokens[self._at : self._at + 1] = [here[0], here[1:]]
        return self._group()

    def _command(self, name: str) -> Value:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return _over(*self._fraction())
        if name == "sqrt":
            degree: Value = _constant(2)
            if self._take("["):
                degree = self.sum()
                self._expect("]")
            inner = self._group()
            return lambda at: inner(at) ** (1 / degree(at))
        if name == "log" and self._take("_"):
            base, inner = self._group(), self._argument()
            return lambda at: cmath.log(inner(at)) / cmath.log(base(at))
        if name in _FUNCTIONS:
            power = self._group() if self._take("^") else None
            function, inner = _FUNCTIONS[name], self._argument()
            if power is None:
                return lambda at: function(inner(at))
            return lambda at: function(inner(at)) ** power(at)
        if name in ("circ",):
            raise NoFormula("a circle is no value")
        return self._letter(f"\\{name}")

    def _argument(self) -> Value:
        """Reads what a function without braces takes: a product, as in sin 2x."""
        if self.here in ("(", "{"):
            return self._power()
        value = self._power()
        while self._begins_factor() and not (self.here or "").startswith("\\"):
            value = _times(value, self._power())
        return value

    def _letter(self, name: str) -> Value:
        if self._take("_"):
            index = ""
            if self._take("{"):
                while (part := self._take()) not in ("}", None):
                    index += str(part)
            else:
                index = self._take() or ""
            name += f"_{index}"
        self.letters.add(name)
        return lambda at: at[name]


def _constant(value: complex) -> Value:
    return lambda at: complex(value)


def _added(one: Value, other: Value, sign: int) -> Value:
    return lambda at: one(at) + sign * other(at)


def _times(one: Value, other: Value) -> Value:
    return lambda at: one(at) * other(at)


def _over(one: Value, other: Value) -> Value:
    return lambda at: one(at) / other(at)


def _raised(one: Value, other: Value) -> Value:
    return lambda at: one(at) ** other(at)


def _factorial(value: Value) -> Value:
    def of(at: Mapping[str, complex]) -> complex:
        number = value(at)
        if number.imag or number.real < 0 or number.real != int(number.real) or number.real > 100:
            raise ValueError("no factorial")
        return complex(math.factorial(int(number.real)))

    return of
