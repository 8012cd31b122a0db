"""YAML with positions: text to plain values plus the line of each, and back.

Only scalars, lists and mappings with text keys: no tags that make objects, no merge keys. Scalars are read as YAML
1.2 does, so that `no` and `off` are words and `1e-3` is a number, but `1_000` stays the number that it was in 1.1.
"""

import re
from pathlib import Path
from typing import Any, cast

import yaml

from yuan_manifest.errors import OVERRIDE, ManifestError, Origin
from yuan_manifest.values import KeyPath, shown

LARGEST_FILE = 1 << 20
"""Bytes; whatever is larger is no manifest (a model given by mistake is not read to its end)."""

LARGEST_TREE = 10_000
"""Values in one manifest; aliases of aliases could make a small file into a large tree."""

_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*$|0x[0-9a-fA-F]+$|0o[0-7]+$")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*\.[0-9]*)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9]+(?:_[0-9]+)*[eE][-+]?[0-9]+$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_RESOLVERS: list[tuple[str, re.Pattern[str], list[str]]] = [
    ("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", _BOOL, list("tTfF")),
    ("tag:yaml.org,2002:int", _INT, list("-+0123456789")),
    ("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789.")),
]


class _Loader(yaml.SafeLoader):
    """The safe loader, only used to compose nodes, with the resolvers above instead of YAML 1.1's."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  pyyaml's own class attribute


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML version could read as something else than text."""

    def ignore_aliases(self, data: object) -> bool:
        return True


class _BlockDumper(_Dumper):
    """Writes text of several lines as a block, as a person would."""


def _inline_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # Only double quotes escape line ends; pyyaml would fold them, or lose the rarer ones (NEL, LS, PS).
    style = '"' if len(value.splitlines()) > 1 or value.splitlines(keepends=True) != value.splitlines() else None
    # pyyaml's stub leaves the value without a type.
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)  # pyright: ignore[reportUnknownMemberType]


def _block_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    if value.splitlines() != value.removesuffix("\n").split("\n") or not value.replace("\n", "").isprintable():
        return _inline_text(dumper, value)
    style = "|" if "\n" in value.strip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)  # pyright: ignore[reportUnknownMemberType]


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)  # pyright: ignore[reportUnknownMemberType]
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)  # pyright: ignore[reportUnknownMemberType]
_Dumper.add_representer(str, _inline_text)
_BlockDumper.add_representer(str, _block_text)


class Document:
    """What was read: plain values and where they stand.

    Attributes:
        tree: dicts, lists, str, int, float, bool, None.
        origins: origin by key path; the empty path is the whole.
    """

    def __init__(self, tree: Any, origins: dict[KeyPath, Origin]) -> None:
        self.tree = tree
        self.origins = origins


def read_yaml(path: Path, name: str) -> Document:
    """Reads a manifest's file.

    Args:
        path: of the file.
        name: how errors call it.

    Raises:
        ManifestError: if it cannot be read, is too large, is not UTF-8 or not YAML of the kind above.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ManifestError.of_file(name, f"cannot be read: {error.strerror or error}") from None
    if len(content) > LARGEST_FILE:
        raise ManifestError.of_file(name, f"is larger than {LARGEST_FILE >> 20} MiB, so it is not a manifest")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 at byte {error.start}; save the file as UTF-8"
        raise ManifestError.at(Origin(name, line), (), problem) from None
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str, *, key: KeyPath = ()) -> Document:
    """Reads YAML text.

    Args:
        text: the YAML.
        name: how errors call its file; `override` for the value of a `key=value`, which has no lines.
        key: the key that such a value is for, named in errors.

    Raises:
        ManifestError: if it is not YAML of the kind that this module's head describes.
    """
    try:
        node = cast(yaml.Node | None, yaml.compose(text, Loader=_Loader))  # pyright: ignore[reportUnknownMemberType]
        return _Builder(name, key).build(node)
    except RecursionError:
        raise ManifestError.at(Origin(name), key, "nested too deeply") from None
    except yaml.reader.ReaderError as error:
        line, column = _place(text, error.position)
        problem = f"column {column}: the character {shown(chr(error.character))} is not allowed"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = f"column {column}: {error.problem or error.context}"
    raise ManifestError.at(Origin(name, None if name == OVERRIDE else line), key, f"not YAML: {problem}")


def dump_yaml(tree: Any) -> str:
    """Returns plain values as YAML that `parse_yaml` reads back to the same values."""
    return yaml.dump(tree, Dumper=_BlockDumper, sort_keys=False, allow_unicode=True, width=120)


def dump_inline(value: Any) -> str:
    """Returns plain values as YAML on one line, as the right side of a `key=value`."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 30, default_flow_style=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _place(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


class _Builder:
    """Turns composed nodes into plain values and remembers where each stood."""

    def __init__(self, name: str, key: KeyPath) -> None:
        self.name = name
        self.key = key
        self.origins: dict[KeyPath, Origin] = {}
        self.open: set[int] = set()

    def build(self, node: yaml.Node | None) -> Document:
        if node is None:
            self.origins[()] = self._origin(None, "")
            return Document(None, self.origins)
        return Document(self._value(node, ()), self.origins)

    def _origin(self, node: yaml.Node | None, text: str | None = None) -> Origin:
        line = None if self.name == OVERRIDE else 1 if node is None else node.start_mark.line + 1
        return Origin(self.name, line, text)

    def _error(self, node: yaml.Node, path: KeyPath, problem: str) -> ManifestError:
        return ManifestError.at(self._origin(node), (*self.key, *path), problem)

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        if len(self.origins) >= LARGEST_TREE:
            raise self._error(node, path, f"more than {LARGEST_TREE} values, so it is not a manifest")
        if isinstance(node, yaml.ScalarNode):
            self.origins[path] = self._origin(node, node.value)
            return self._scalar(node, path)
        self.origins[path] = self._origin(node)
        if id(node) in self.open:
            raise self._error(node, path, "an alias (*) inside its own anchor (&)")
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            value = [self._value(child, (*path, index)) for index, child in enumerate(node.value)]
        else:
            raise self._error(node, path, f"the tag {node.tag} is not understood here; leave it out")
        self.open.discard(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            raise self._error(node, path, f"the tag {node.tag} is not understood here; leave it out")
        value: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, child in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, path, "a list or section as a key; keys are words")
            key = key_node.value
            if key_node.tag != "tag:yaml.org,2002:str":
                raise self._error(key_node, path, f"the key {key or 'null'} is not text; quote it: '{key}'")
            if key == "<<" and key_node.style is None:
                raise self._error(key_node, path, "merge keys (<<) are not understood; use extends")
            where = (*path, key)
            self._encodable(key, key_node, where)
            if key in value:
                problem = f"duplicate key; it already stands in line {lines[key]}"
                raise self._error(key_node, where, "duplicate key" if self.name == OVERRIDE else problem)
            lines[key] = key_node.start_mark.line + 1
            value[key] = self._value(child, where)
            # A section begins where its key stands, which is where a reader looks for it.
            self.origins[where] = self._origin(key_node, self.origins[where].text)
        return value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        try:
            return _scalar(kind, node.value)
        except KeyError:
            raise self._error(node, path, f"the tag {node.tag} is not understood here; leave it out") from None
        except UnicodeEncodeError:
            raise self._error(node, path, "half a character (a lone surrogate) in the text") from None
        except ValueError:
            raise self._error(node, path, f"{shown(node.value)} is no {kind}") from None

    def _encodable(self, text: str, node: yaml.Node, path: KeyPath) -> None:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self._error(node, path[:-1], "half a character (a lone surrogate) in a key") from None


def _scalar(kind: str, text: str) -> str | int | float | bool | None:
    """Reads one scalar.

    Raises:
        KeyError: if the kind is unknown.
        ValueError: if the text is none of its kind (`!!int x`, more digits than Python reads).
    """
    if kind == "str":
        text.encode()
        return text
    if kind == "null":
        return None
    if kind == "bool":
        if not _BOOL.match(text):
            raise ValueError(text)
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text.startswith(("0x", "0o")) else int(text)
    if kind == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    raise KeyError(kind)
