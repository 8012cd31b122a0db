"""A tree of plain values against the schema's classes: unknown keys, wrong types, null where there is none.

What values may be beyond their type is not looked at here (`checks.py`), nor what `${…}` stands for.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from yuan_manifest.cleaning import OWN_STAGE, STAGE_OPTIONS, StageOptions, defaults_of
from yuan_manifest.errors import ManifestError, Origin, Origins
from yuan_manifest.interpolation import has_interpolation
from yuan_manifest.schema import Job, TokenizeJob, Topology
from yuan_manifest.values import (
    KeyPath,
    format_path,
    is_list,
    is_section,
    is_section_or_list,
    parse_path,
    shortened,
    shown,
)

MOST_LISTED = 16
"""Valid names are listed up to this many."""

LARGEST_NUMBER = (1 << 63) - 1
"""Of whole numbers: 64 bits is what everything below takes."""

_OTHER_NAMES = {
    "batch_size": "global_batch_size",
    "iterations": "steps",
    "learning_rate": "lr",
    "max_steps": "steps",
    "seq_length": "sequence_length",
}
"""What keys are called elsewhere, where that is too far from their name here to be found by likeness."""


def conform(cls: type, tree: dict[str, Any], origins: Origins) -> dict[str, Any]:
    """Returns the tree with its scalars as the class wants them (whole numbers as floats, overrides as text).

    Args:
        cls: the dataclass of the whole manifest.
        tree: plain values of the whole manifest; any key may be missing.
        origins: where they stand.

    Raises:
        ManifestError: at the first key that is unknown or whose value is of another type.
    """
    return _Conformer(cls, origins).section(cls, tree, ())


def hints_of(cls: type) -> dict[str, Any]:
    """Returns the type of each field; a job's partial topology has the type of a whole one, stages have their own."""
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    if issubclass(cls, TokenizeJob):
        hints["cleaning"] = list[StageOptions]
    return {name: Topology if issubclass(cls, Job) and name == "topology" else hints[name] for name in names}


class _Conformer:
    def __init__(self, top: type, origins: Origins, above: KeyPath = ()) -> None:
        self.top = top
        self.origins = origins
        self.above = above

    def section(self, cls: type, value: object, path: KeyPath) -> dict[str, Any]:
        if not is_section(value):
            raise self._wrong("a section of `key: value`", value, path)
        hints = hints_of(cls)
        for key in value:
            if key not in hints:
                raise self._unknown(key, hints, path)
        return {key: self.value(hints[key], child, (*path, key)) for key, child in value.items()}

    def value(self, hint: Any, value: Any, path: KeyPath) -> Any:  # noqa: PLR0911  one return a form of type
        if hint is Any:
            return value
        if typing.get_origin(hint) in (types.UnionType, typing.Union):
            inner = next(member for member in typing.get_args(hint) if member is not types.NoneType)
            return None if value is None else self.value(inner, value, path)
        if hint is StageOptions:
            return self._stage(value, path)
        if dataclasses.is_dataclass(hint):
            return self.section(typing.cast(type, hint), value, path)
        if typing.get_origin(hint) is list:
            return self._list(typing.get_args(hint)[0], value, path)
        if typing.get_origin(hint) is dict:
            return self._dict(typing.get_args(hint)[1], value, path)
        if has_interpolation(value):
            return value
        return self._scalar(hint, value, path)

    def _stage(self, value: object, path: KeyPath) -> dict[str, Any]:
        """Returns a stage with all of its options; those of a user's own stage are as they are."""
        if not is_section(value):
            raise self._wrong("a section like {stage: unicode}", value, path)
        if "stage" not in value:
            raise ManifestError.at(self.origins.find(path), (*path, "stage"), "missing; it names the stage")
        name = value["stage"]
        if isinstance(name, str) and OWN_STAGE.fullmatch(name):
            return value
        if name not in STAGE_OPTIONS:
            where = (*path, "stage")
            near = difflib.get_close_matches(str(name), list(STAGE_OPTIONS), n=1, cutoff=0.5)
            mend = f"; did you mean {near[0]}?" if near else ""
            expected = f"one of {', '.join(STAGE_OPTIONS)}, or your own as module:Class"
            raise ManifestError.at(self.origins.find(where), where, f"expected {expected}, found {shown(name)}{mend}")
        cls = STAGE_OPTIONS[name]
        return {**defaults_of(cls), **_Conformer(cls, self.origins, above=path).section(cls, value, path)}

    def _list(self, item: Any, value: object, path: KeyPath) -> list[Any]:
        if not is_list(value):
            raise self._wrong("a list", value, path, mend="write [a, b] or lines of `- a`")
        return [self.value(item, child, (*path, index)) for index, child in enumerate(value)]

    def _dict(self, item: Any, value: object, path: KeyPath) -> dict[str, Any]:
        if not is_section(value):
            raise self._wrong("a section of `name: value`", value, path)
        return {key: self.value(item, child, (*path, key)) for key, child in value.items()}

    def _scalar(self, hint: type, value: Any, path: KeyPath) -> Any:
        origin = self.origins.find(path)
        if issubclass(hint, Enum):
            return self._choice(hint, value, path)
        if hint is str:
            return self._text(value, path, origin)
        if hint is bool:
            if not isinstance(value, bool):
                raise self._wrong("true or false", value, path)
            return value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong("a whole number" if hint is int else "a number", value, path)
        if hint is int:
            if not isinstance(value, int):
                raise self._wrong("a whole number", value, path)
            if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
                raise self._wrong("a whole number of at most 2^63 - 1", value, path)
            return value
        return self._float(value, path)

    def _float(self, value: float, path: KeyPath) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._wrong("a finite number", value, path)
        return number

    def _text(self, value: Any, path: KeyPath, origin: Origin) -> str:
        if isinstance(value, str):
            return value
        # A shell makes quotes hard to pass on, and `name=2024` can mean nothing else; a bare null is no text.
        if origin.is_override and origin.text is not None and (value is not None or origin.text == ""):
            return origin.text
        scalar = not is_section_or_list(value) and value is not None
        mend = f"quote it: '{shortened(origin.text)}'" if scalar and origin.text else ""
        raise self._wrong("text", value, path, mend=mend)

    def _choice(self, hint: type[Enum], value: Any, path: KeyPath) -> str:
        names = [member.value for member in hint]
        if value in names and isinstance(value, str):
            return value
        near = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
        mend = f"did you mean {near[0]}?" if near else ""
        raise self._wrong(f"one of {', '.join(names)}", value, path, mend=mend)

    def _wrong(self, expected: str, value: object, path: KeyPath, *, mend: str = "") -> ManifestError:
        origin = self.origins.find(path)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        found = shortened(origin.text) if is_number and origin.text else shown(value)
        return ManifestError.at(origin, path, f"expected {expected}, found {found}" + (f"; {mend}" if mend else ""))

    def _unknown(self, key: str, hints: Mapping[str, Any], path: KeyPath) -> ManifestError:
        where = (*path, key)
        origin = self.origins.find(where)
        listed = f"; expected one of {', '.join(hints)}" if len(hints) <= MOST_LISTED else ""
        near = self._nearest(key, hints, where)
        mend = f"; did you mean {format_path((*origin.at, *near))}?" if near else ""
        return ManifestError.at(origin, where, f"unknown key{listed}{mend}")

    def _nearest(self, key: str, hints: Mapping[str, Any], where: KeyPath) -> KeyPath | None:
        paths = list(_all_paths(self.top, self.above))
        dotted = parse_path(key)
        if dotted in paths:
            return dotted
        by_name: dict[str, KeyPath] = {}
        for candidate in paths:
            by_name.setdefault(str(candidate[-1]), candidate)
        # The right name in the wrong section comes before a similar one in the right section.
        name = _OTHER_NAMES.get(key, key)
        if name in hints:
            return (*where[:-1], name)
        if name in by_name:
            return by_name[name]
        siblings = difflib.get_close_matches(key, list(hints), n=1)
        if siblings:
            return (*where[:-1], siblings[0])
        elsewhere = difflib.get_close_matches(key, list(by_name), n=1, cutoff=0.8)
        return by_name[elsewhere[0]] if elsewhere else None


def _all_paths(cls: type, path: KeyPath) -> Iterator[KeyPath]:
    for name, hint in hints_of(cls).items():
        yield (*path, name)
        if dataclasses.is_dataclass(hint):
            yield from _all_paths(typing.cast(type, hint), (*path, name))
