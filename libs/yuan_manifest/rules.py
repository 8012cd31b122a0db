"""Rules that recur in many sections: at least, a name, one of. Each yields what is wrong, with the key to change."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from yuan_manifest.values import KeyPath, shown

Problem = tuple[str | KeyPath, str]
"""A key path relative to the section (`split[1]`), and what is wrong there with its mend."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
"""Of artifacts and jobs."""

NAME_RULE = "1 to 63 of a-z 0-9 . _ -, the first a letter or digit"

STORED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of artifacts as a registry takes them, and of served models and their adapters."""

STORED_NAME_RULE = "up to 100 letters, digits, dots, hyphens and underscores, the first a letter or digit"

_REFERENCE = re.compile(rf"{NAME.pattern}(?:@(?:[1-9][0-9]{{0,8}}|latest))?")

LARGEST_SEED = (1 << 63) - 1
"""What torch's generators take."""

LARGEST_SHUFFLE_SEED = (1 << 32) - 1
"""What numpy's `RandomState` takes, which shuffles samples as the original does."""

LARGEST_COUNT = (1 << 31) - 1
"""Of anything that is counted: what the libraries below take, and more than a run has of anything."""


def at_least(section: Any, smallest: float, *fields: str) -> Iterator[Problem]:
    """Named values, where given, are no smaller; and whole numbers no larger than a count can be."""
    for name in fields:
        value = getattr(section, name)
        if value is not None and value < smallest:
            yield name, f"expected at least {smallest}, found {value}"
    yield from at_most(section, LARGEST_COUNT, *(name for name in fields if isinstance(getattr(section, name), int)))


def at_most(section: Any, largest: float, *fields: str) -> Iterator[Problem]:
    """Named values, where given, are no larger."""
    for name in fields:
        value = getattr(section, name)
        if value is not None and value > largest:
            yield name, f"expected at most {largest}, found {shown(value)}"


def above_zero(section: Any, *fields: str) -> Iterator[Problem]:
    """Named values, where given, are more than 0."""
    for name in fields:
        value = getattr(section, name)
        if value is not None and value <= 0:
            yield name, f"expected more than 0, found {value}"


def share(section: Any, *fields: str) -> Iterator[Problem]:
    """Named values are shares of a whole."""
    for name in fields:
        value = getattr(section, name)
        if not 0 <= value <= 1:
            yield name, f"expected 0 to 1, found {value}"


def seed(section: Any, largest: int = LARGEST_SEED) -> Iterator[Problem]:
    """The section's seed is one that every generator that it goes to takes."""
    if not 0 <= section.seed <= largest:
        yield "seed", f"expected 0 to 2^{largest.bit_length()} - 1, found {shown(section.seed)}"


def names(section: Any, *fields: str) -> Iterator[Problem]:
    """Named values, where given, are names of artifacts or jobs."""
    for name in fields:
        value = getattr(section, name)
        if value is not None and not NAME.fullmatch(value):
            yield name, f"expected a name ({NAME_RULE}), found {shown(value)}"


def references(section: Any, *fields: str) -> Iterator[Problem]:
    """Named values, where given, are names of artifacts, perhaps with a version."""
    for name in fields:
        value = getattr(section, name)
        if value is not None:
            yield from reference(name, value)


def reference(key: str | KeyPath, value: str) -> Iterator[Problem]:
    """A value is the name of an artifact, perhaps with a version."""
    if not _REFERENCE.fullmatch(value):
        yield key, f"expected NAME or NAME@VERSION (NAME: {NAME_RULE}), found {shown(value)}"


def one_of(key: str, value: str, choices: Sequence[str]) -> Iterator[Problem]:
    """A value is one of the choices."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        mend = f"; did you mean {near[0]}?" if near else ""
        yield key, f"expected {_choice(choices)}, found {shown(value)}{mend}"


def _choice(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"


def some_text(section: Any, *fields: str) -> Iterator[Problem]:
    """Named values, where given, are not blank."""
    for name in fields:
        value = getattr(section, name)
        if isinstance(value, str) and not value.strip():
            yield name, "is empty text"


def filled(section: Any, name: str) -> Iterator[Problem]:
    """A list has items, and no empty text among them."""
    values = getattr(section, name)
    if not values:
        yield name, "is empty; expected at least one item"
    for index, value in enumerate(values):
        if value == "":
            yield f"{name}[{index}]", "is empty text"


def either(section: Any) -> Iterator[Problem]:
    """Exactly one of `model` and `path` is given."""
    if (section.model is None) == (section.path is None):
        found = "neither" if section.model is None else "both"
        yield "model", f"expected exactly one of model and path, found {found}"
    if section.path == "":
        yield "path", "is empty text"
