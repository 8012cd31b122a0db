"""In what two jobs differ: their trees of plain values, leaf by leaf."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from yuan_jobs.values import short_value
from yuan_manifest.values import format_path, is_list, is_section

_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """A value that two jobs do not share; `_ABSENT` where one has none."""

    key: str
    first: Any
    second: Any

    def row(self) -> tuple[str, str, str]:
        """Returns it for a table; the third cell has the change of numbers, too."""
        change = self.change
        return (self.key, self.first_text(), self.second_text() + (f"  ({change})" if change else ""))

    def first_text(self) -> str:
        """Returns the first job's value; a dash where it has none."""
        return _text(self.first)

    def second_text(self) -> str:
        """Returns the second job's value; a dash where it has none."""
        return _text(self.second)

    @property
    def change(self) -> str:
        """By how much a number has changed; empty for what is no number."""
        return _change(self.first, self.second)

    def facts(self) -> dict[str, Any]:
        """Returns it for programs; null where a job has no such value."""
        first, second = (None if value is _ABSENT else value for value in (self.first, self.second))
        return {"key": self.key, "first": first, "second": second}


def differences(first: Any, second: Any) -> Iterator[Difference]:
    """Yields what two trees do not share, by key path, in the order of the first."""
    ours, theirs = dict(_leaves(first, ())), dict(_leaves(second, ()))
    for key in dict.fromkeys([*ours, *theirs]):
        mine, other = ours.get(key, _ABSENT), theirs.get(key, _ABSENT)
        if mine is _ABSENT or other is _ABSENT or mine != other:
            yield Difference(key, mine, other)


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    if is_section(value) and value:
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif is_list(value) and any(is_section(item) for item in value):
        for index, child in enumerate(value):
            yield from _leaves(child, (*path, index))
    elif path:
        yield format_path(path), value


def _text(value: Any) -> str:
    return "–" if value is _ABSENT else short_value(value)


def _change(first: Any, second: Any) -> str:
    numbers = [value for value in (first, second) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2:
        return ""
    change = numbers[1] - numbers[0]
    share = f", {change / abs(numbers[0]):+.1%}" if numbers[0] else ""
    return f"{change:+.4g}{share}"
