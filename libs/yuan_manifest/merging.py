"""From files and `key=value` overrides to one tree of plain values: `extends`, merging, overrides.

Sections are merged key by key; anything else replaces what stood there. Knows the words `version` and `extends`,
and nothing else of the schema.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from yuan_manifest.errors import OVERRIDE, ManifestError, Origin, Origins
from yuan_manifest.interpolation import escaped
from yuan_manifest.values import (
    KeyPath,
    children,
    format_path,
    is_list,
    is_section,
    is_section_or_list,
    parse_path,
    shown,
    starts_with,
    with_home,
)
from yuan_manifest.yaml_source import dump_inline, parse_yaml, read_yaml

VERSION = 1
"""Of the manifest format."""


class Layers:
    """A tree that is put together from layers, each over the ones before, with the origin of every value.

    Attributes:
        tree: the merged values.
        origins: where each stands.
    """

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.origins: dict[KeyPath, Origin] = {}

    def put(self, tree: dict[str, Any], origins: dict[KeyPath, Origin]) -> None:
        """Merges a layer over what is there; `origins` are the layer's."""
        self.put_below(self.tree, tree, origins, ())

    def put_below(
        self, target: dict[str, Any], layer: dict[str, Any], origins: dict[KeyPath, Origin], at: KeyPath
    ) -> None:
        """Merges a layer into `target`, the section at `at`; `origins` are the layer's, by full path."""
        kept: set[KeyPath] = set()
        self._merge(target, layer, at, kept)
        for path, origin in origins.items():
            # A section stays where the files have it, also when an override changes a value in it: what is missing
            # in it is to be added there.
            if path not in kept or not (origin.is_override or origin.at):
                self.origins[path] = origin

    def frozen(self, file: str) -> Origins:
        """Returns the origins as they are now, of the manifest that errors call `file`."""
        return Origins(file, MappingProxyType(dict(self.origins)))

    def replace(self, path: KeyPath, target: Any, key: str | int, value: Any, origins: dict[KeyPath, Origin]) -> None:
        """Sets `target[key]`, which is the value at `path`, with the origins of all below it."""
        self._set(path, target, key, value)
        self.origins.update(origins)

    def _merge(self, target: dict[str, Any], layer: dict[str, Any], at: KeyPath, kept: set[KeyPath]) -> None:
        """Merges the values, forgets where those replaced stood, and adds the merged sections to `kept`."""
        kept.add(at)
        for key, value in layer.items():
            path = (*at, key)
            present = target.get(key)
            if is_section(value) and is_section(present):
                self._merge(present, value, path, kept)
            else:
                self._set(path, target, key, value)

    def _set(self, path: KeyPath, target: Any, key: str | int, value: Any) -> None:
        if is_section_or_list(_child(target, key)):
            self.origins = {place: origin for place, origin in self.origins.items() if not starts_with(place, path)}
        target[key] = _copy(value)


def _copy(value: Any) -> Any:
    if is_section(value):
        return {key: _copy(child) for key, child in value.items()}
    if is_list(value):
        return [_copy(child) for child in value]
    return value


def read_layers(path: str | Path) -> Layers:
    """Reads a file and all that it extends.

    Raises:
        ManifestError: if one of them cannot be read, extends itself, or has another version.
    """
    layers = Layers()
    _read_into(layers, Path(path), str(Path(path)), [])
    return layers


def _read_into(layers: Layers, path: Path, name: str, chain: list[Path]) -> None:
    document = read_yaml(_existing(path, name), name)
    if not is_section(document.tree):
        found = "an empty file" if document.tree is None else shown(document.tree)
        problem = f"expected a manifest (lines of `key: value`, the first `version: {VERSION}`), found {found}"
        raise ManifestError.at(document.origins[()], (), problem)
    tree, origins = document.tree, document.origins
    if "version" in tree:
        check_version(tree["version"], origins["version",])
    chain = [*chain, path.resolve()]
    for parent, origin, key in _parents(tree, origins):
        folder = path.parent
        target = Path(with_home(parent))
        parent_name = os.path.normpath(folder / target)
        if (folder / target).resolve() in chain:
            raise ManifestError.at(origin, key, f"{shown(parent)} extends this file in turn; take one of the two out")
        try:
            _existing(folder / target, parent_name)
        except ManifestError as error:
            raise ManifestError.at(origin, key, str(error)) from None
        _read_into(layers, folder / target, parent_name, chain)
    own = {place: origin for place, origin in origins.items() if place[:1] != ("extends",)}
    layers.put({key: value for key, value in tree.items() if key != "extends"}, own)


def _parents(tree: dict[str, Any], origins: dict[KeyPath, Origin]) -> list[tuple[str, Origin, KeyPath]]:
    value = tree.get("extends", [])
    items: list[tuple[KeyPath, Any]] = [(("extends", index), item) for index, item in children(value)]
    if not is_list(value):
        items = [(("extends",), value)]
    for key, item in items:
        if not isinstance(item, str) or not item:
            problem = f"expected the path of a manifest or a list of them, found {shown(item)}"
            raise ManifestError.at(origins[key], key, problem)
    return [(item, origins[key], key) for key, item in items]


def _existing(path: Path, name: str) -> Path:
    """Returns the path if there is a file.

    Raises:
        ManifestError: if there is none; it names the nearest one.
    """
    try:
        if path.is_dir():
            raise ManifestError.of_file(name, "is a folder; expected a manifest file")
        if path.exists():
            return path
        folder = path.parent
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        if folder != path.parent:
            inside = f" in {folder}" if str(folder) != "." else ""
            missing = path.parts[len(folder.parts) if str(folder) != "." else 0]
            raise ManifestError.of_file(name, f"no such file: there is no folder {shown(missing)}{inside}")
        names = {item.stem: item.name for item in sorted(folder.iterdir()) if item.suffix in {".yaml", ".yml"}}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ManifestError.of_file(name, f"cannot be read: {reason}") from None
    near = difflib.get_close_matches(path.stem, list(names), n=1)
    mend = f"; did you mean {Path(name).with_name(names[near[0]])}?" if near else ""
    raise ManifestError.of_file(name, f"no such file{mend}")


def check_version(value: object, origin: Origin) -> None:
    """Checks a manifest's version.

    Raises:
        ManifestError: if it is another than this program reads.
    """
    if value != VERSION or isinstance(value, bool) or not isinstance(value, int):
        problem = f"expected {VERSION}, the only version that this program reads, found {shown(value)}"
        raise ManifestError.at(origin, ("version",), problem)


def split_overrides(items: Iterable[str]) -> tuple[list[str], list[str]]:
    """Parts `key=value` items into those for the job (`topology.` and all others) and those for the cluster.

    Raises:
        ManifestError: if one has no `=` or no key.
    """
    job: list[str] = []
    cluster: list[str] = []
    for item in items:
        path, _ = split_override(item)
        (cluster if path[0] == "cluster" else job).append(item)
    return job, cluster


def split_override(item: str) -> tuple[KeyPath, str]:
    """Parts `a.b[0]=value` into key path and text of the value.

    Raises:
        ManifestError: if there is no `=` or no key path before it.
    """
    key, equals, value = item.partition("=")
    key = key.strip()
    if not equals:
        raise ManifestError(f"{OVERRIDE}: expected key=value, found {shown(item)}", origin=Origin(OVERRIDE))
    path = parse_path(key)
    if not path or isinstance(path[0], int) or not _is_key(key, path):
        problem = f"{OVERRIDE}: expected key=value with a key like train.steps, found {shown(item)}"
        raise ManifestError(problem, origin=Origin(OVERRIDE))
    return path, value


def _is_key(text: str, path: KeyPath) -> bool:
    return format_path(path) == text and not any(isinstance(part, str) and part.strip() != part for part in path)


def apply_overrides(layers: Layers, items: Sequence[str]) -> None:
    """Puts `key=value` items over a tree, in order; values are read as YAML.

    Raises:
        ManifestError: if an item is not `key=value`, its value is not YAML, or its key leads through a plain value.
    """
    for item in items:
        path, text = split_override(item)
        document = parse_yaml(text, OVERRIDE, key=path)
        put_value(layers, path, document.tree, {(*path, *p): o for p, o in document.origins.items()})


def put_value(layers: Layers, path: KeyPath, value: Any, origins: dict[KeyPath, Origin]) -> None:
    """Sets the value at a key path, making the sections that lead there; a section is merged.

    Args:
        layers: is changed.
        path: from the top; words of digits are indices where a list stands.
        value: plain.
        origins: of the value and all below it, by full path; the one at `path` must be there.

    Raises:
        ManifestError: if the path leads through something that is no section and no list, or past a list's end.
    """
    origin = origins[path]
    target: dict[str, Any] | list[Any] = layers.tree
    full: KeyPath = ()
    for part in path[:-1]:
        full = (*full, _step(target, part, full, origin))
        below = _child(target, full[-1])
        if below is None and is_section(target):
            # No origin: the section stands nowhere yet, and what is missing in it is missing in the file.
            layers.replace(full, target, full[-1], {}, {})
            below = _child(target, full[-1])
        if not is_section_or_list(below):
            raise ManifestError.at(origin, path, f"{format_path(full)} is neither a section nor a list")
        target = below
    full = (*full, _step(target, path[-1], full, origin))
    moved = {(*full, *p[len(path) :]): o for p, o in origins.items()}
    present = _child(target, full[-1])
    if is_section(value) and is_section(present):
        layers.put_below(present, value, moved, full)
    else:
        layers.replace(full, target, full[-1], value, moved)


def _child(target: dict[str, Any] | list[Any], key: str | int) -> Any:
    if is_list(target):
        return target[int(key)]
    return target.get(str(key)) if is_section(target) else None


def _step(target: dict[str, Any] | list[Any], part: str | int, at: KeyPath, origin: Origin) -> str | int:
    """Returns the key or index that a part of a path means in what stands at `at`."""
    path = (*at, part)
    if is_section(target):
        if isinstance(part, int):
            raise ManifestError.at(origin, path, f"no list stands at {format_path(at)}")
        return part
    if isinstance(part, str) and not part.isdecimal():
        problem = f"a list stands at {format_path(at)}; expected an item's number, from 0"
        raise ManifestError.at(origin, path, problem)
    index = int(part)
    if index >= len(target):
        raise ManifestError.at(origin, path, f"no such item; the list has {len(target)}, counted from 0")
    return index


def as_override(path: KeyPath, value: Any) -> str:
    """Returns the `key=value` that sets a final value: a `${` in it is written so that it stays text."""
    return f"{format_path(path)}={dump_inline(escaped(value))}"
