"""Plain values as YAML has them, and key paths into trees of them: how they are told apart, written and shown."""

import os
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

KeyPath = tuple[str | int, ...]
"""Keys and list indices from the top of a manifest down to a value."""


def is_section(value: object) -> TypeGuard[dict[str, Any]]:
    """Tells whether a plain value is a mapping; keys are always text."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Tells whether a plain value is a list."""
    return isinstance(value, list)


def is_section_or_list(value: object) -> TypeGuard[dict[str, Any] | list[Any]]:
    """Tells whether a plain value has others below it."""
    return isinstance(value, dict | list)


def children(value: Any) -> list[tuple[str | int, Any]]:
    """Returns what stands directly below a plain value, with its keys or indices."""
    if is_section(value):
        return list(value.items())
    return list(enumerate(value)) if is_list(value) else []


def with_home(path: str) -> str:
    """Returns a path with its leading `~` or `~user` expanded; left alone where there is no such user."""
    return os.path.expanduser(path)  # noqa: PTH111  pathlib's raises for an unknown user


def starts_with(path: KeyPath, prefix: KeyPath) -> bool:
    """Tells whether a path leads to or through the place of another."""
    return path[: len(prefix)] == prefix


def format_path(path: Sequence[str | int]) -> str:
    """Returns `a.b[0].c`; keys that are no plain words stand in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            word = part if re.fullmatch(r"[^\s.=\[\]\x00-\x1f]+", part) else shown(part)
            text += f".{word}" if text else word
    return text


def parse_path(text: str) -> KeyPath:
    """Reads what `format_path` writes, for keys that are plain words; the 0 of `a.0.b` is a key, not an index."""
    pieces = re.findall(r"\[\d{1,9}\]|[^.\[\]]+", text)
    return tuple(int(piece[1:-1]) if piece.startswith("[") else piece for piece in pieces)


def shown(value: object, longest: int = 60) -> str:
    """Returns a value as one short piece of a line: text in quotes, null, true, 12, a list, a section."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    return shortened(repr(str(value)) if isinstance(value, str) else str(value), longest)


def shortened(text: str, longest: int = 60) -> str:
    """Returns a text of one line with its middle left out where it is too long; the last character stays."""
    return text if len(text) <= longest else f"{text[: longest - 2]}…{text[-1]}"
