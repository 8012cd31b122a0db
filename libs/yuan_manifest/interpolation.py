r"""`${…}` in values: the resolvers that manifests may use, and plain values to typed objects through OmegaConf.

`${oc.env:NAME,default}` reads the environment, `${a.b}` another value of the same manifest; `\${` stays text.
"""

import dataclasses
import inspect
import math
import re
import types
import typing
from enum import Enum
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationValidationError,
    OmegaConfBaseException,
)

from yuan_manifest.errors import ManifestError, Origins
from yuan_manifest.tildes import with_quoted_tildes
from yuan_manifest.values import KeyPath, children, is_list, is_section, parse_path, shown

Section = TypeVar("Section")

MISSING_MARK = "???"
"""What OmegaConf takes for a value that is not given."""

_WORDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def has_interpolation(value: object) -> bool:
    """Tells whether a value has a `${` in it, escaped or not, and so is read by OmegaConf's grammar."""
    return isinstance(value, str) and "${" in value


def escaped(value: Any) -> Any:
    """Returns a plain value whose strings come out of OmegaConf as they are."""
    if is_section(value):
        return {key: escaped(child) for key, child in value.items()}
    if is_list(value):
        return [escaped(child) for child in value]
    if has_interpolation(value):
        # Backslashes are only special right before `${` (OmegaConf's grammar, ESC_INTER and TOP_ESC).
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def build(cls: type[Section], tree: dict[str, Any], origins: Origins, *, above: KeyPath = ()) -> Section:
    """Makes the typed object of a tree whose keys and types were already checked against the class.

    Args:
        cls: a dataclass of the schema.
        tree: plain values.
        origins: where they stand.
        above: path of the tree in the manifest that `origins` is of.

    Raises:
        ManifestError: if an interpolation cannot be read or resolved, resolves to a value of another type, or a
            value without a default is missing.
    """
    _check_grammar(tree, origins, above)
    try:
        given = cast(DictConfig, OmegaConf.create(_prepared(tree)))
        config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(cls), given))
    except OmegaConfBaseException as error:
        where = (*above, *parse_path(str(getattr(error, "full_key", None) or "")))
        raise ManifestError.at(origins.find(where), where, _validation_problem(_first_line(error))) from None
    _resolve_each(config, origins, above)
    return OmegaConf.to_object(config)  # pyright: ignore[reportReturnType]  a dataclass, since `config` is structured


def _prepared(value: Any) -> Any:
    if is_section(value):
        return {key: _prepared(child) for key, child in value.items()}
    if is_list(value):
        return [_prepared(child) for child in value]
    return with_quoted_tildes(value) if isinstance(value, str) else value


def _check_grammar(value: Any, origins: Origins, path: KeyPath) -> None:
    for key, child in children(value):
        _check_grammar(child, origins, (*path, key))
    if has_interpolation(value):
        try:
            OmegaConf.create({"value": with_quoted_tildes(value)})
        except GrammarParseError:
            mend = r"inside ${…} quote what is no plain word, and write \${ for a ${ that is text"
            problem = f"{shown(value)} cannot be read; {mend}"
            raise ManifestError.at(origins.find(path), path, problem) from None


def _resolve_each(node: DictConfig | ListConfig, origins: Origins, path: KeyPath) -> None:
    """Looks at every value once, so that what cannot be resolved is reported at its own key."""
    keys: list[Any] = list(range(len(node))) if isinstance(node, ListConfig) else list(node)
    for key in keys:
        where = (*path, key)
        origin = origins.find(where)
        if OmegaConf.is_missing(node, key):
            written = where in origins.entries
            problem = f"{MISSING_MARK} stands for a missing value" if written else "missing; it has no default"
            raise ManifestError.at(origin, where, f"{problem}; give {_expected(node, key) or 'one'}")
        try:
            value = node[key]
        except (OmegaConfBaseException, RecursionError) as error:
            raise ManifestError.at(origin, where, _interpolation_problem(error, _expected(node, key))) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ManifestError.at(origin, where, f"expected a finite number, found {value}")
        if isinstance(value, DictConfig | ListConfig):
            _resolve_each(value, origins, where)


def _expected(node: DictConfig | ListConfig, key: Any) -> str:
    """Returns what a key of a section is to be, in words; empty for what is no single value of a section."""
    cls = OmegaConf.get_type(node)
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        return ""
    hint: Any = typing.get_type_hints(cls)[key]
    if typing.get_origin(hint) is list:
        return "a list"
    kind: Any = next((member for member in typing.get_args(hint) if member is not types.NoneType), hint)
    if inspect.isclass(kind) and issubclass(kind, Enum):
        return f"one of {', '.join(member.value for member in kind)}"
    return next((words for known, words in _WORDS.items() if kind is known), "")


def _interpolation_problem(error: BaseException, expected: str) -> str:
    text = _first_line(error)
    if isinstance(error, RecursionError) or text.startswith(("Recursive interpolation", "Interpolation to parent")):
        return "refers to itself through ${…}"
    variable = re.search(r"Environment variable '(.*?)' not found", text)
    if variable:
        name = variable.group(1)
        return f"the environment variable {name} is not set; set it, or give a default: ${{oc.env:{name},default}}"
    if isinstance(error, InterpolationKeyError):
        key = re.search(r"key '(.*?)'", text)
        return f"${{{key.group(1) if key else '…'}}} names no key of this manifest"
    unknown = re.search(r"Unsupported interpolation type (.*)", text)
    if unknown:
        known = "${oc.env:NAME,default} or ${key.path}"
        return f"${{{unknown.group(1)}:…}} is unknown; expected {known}"
    if isinstance(error, InterpolationValidationError):
        return _validation_problem(text, expected)
    return f"cannot be resolved: {text}"


def _validation_problem(text: str, expected: str = "") -> str:
    """Rewords OmegaConf's complaint about the type of what an interpolation gives."""
    below = re.match(r"While dereferencing interpolation '(.*?)': .*?\b(Dict|List)Config\b", text)
    if below:
        found = "a section" if below.group(2) == "Dict" else "a list"
        return f"expected {expected or 'a single value'}, found {found}, which {below.group(1)} stands for"
    source = re.match(r"While dereferencing interpolation '(.*?)': ", text)
    which = f", which {source.group(1)} stands for" if source else ""
    kinds = {"Integer": _WORDS[int], "Float": _WORDS[float], "Boolean": _WORDS[bool]}
    value = re.search(r"Value (.*) of type '\w+' could not be converted to (\w+)", text)
    if value and value.group(2) in kinds:
        return f"expected {kinds[value.group(2)]}, found {value.group(1)}{which}"
    choice = re.search(r"Invalid value (.*), expected one of \[(.*)\]", text)
    if choice:
        return f"expected one of {choice.group(2)}, found {choice.group(1)}{which}"
    return text.replace("While dereferencing interpolation ", "")


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
