"""Which files a corpus consists of: folders and glob patterns to an ordered list of paths.

Nothing is read here; see `documents.py`.
"""

import glob
import os
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from yuan_corpus.errors import TextError
from yuan_corpus.sources import RemoteFile, Source, filesystem_of, is_url, remote_errors

_WILDCARDS = re.compile(r"[*?\[]")
_STANDARD_LIBRARY = "python-stdlib:"


def find_text_files(patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[Source]:
    """Returns the files that patterns name, without duplicates; sorted within a pattern, patterns in their order.

    A pattern is a file, a folder (every file below it), or a glob in which `**` means any folders; `~` is the home
    folder, and `python-stdlib:` in front means the standard library of the Python that runs this, wherever that is
    (so that a manifest needs no path of a machine). Hidden files (`.git`) are found only where a pattern names them,
    and folders that a wildcard matches are not entered. A URL (`s3://bucket/folder/*.jsonl.zst`) is understood alike;
    what its file system must know (keys, endpoint) comes from the environment or fsspec's own configuration.

    `exclude` works as lines of a .gitignore do, from the folder where a pattern's wildcards begin: a pattern without
    a slash (`test`, `*.pyc`) leaves out files and folders of that name at any depth, one with a slash
    (`**/test/**`, `email/*.py`) a path from there; a path from the working folder or an absolute one works too.

    Raises:
        TextError: if a pattern matches no file, or nothing is left of it.
    """
    if not patterns:
        raise TextError("no text is named: give folders or glob patterns under inputs.text")
    exclusions = _Exclusions([_Exclusion.parse(pattern) for pattern in exclude], os.fspath(Path.cwd()))
    files: dict[str, Source] = {}
    for pattern in patterns:
        remote = is_url(pattern)
        found, left_out = _expand_url(pattern, exclusions) if remote else _expand(pattern, exclusions)
        if not found:
            raise TextError(
                f"text {pattern}: inputs.exclude leaves out everything that it matches"
                if left_out
                else f"text {pattern}: no such file or folder, or no file matches"
                if remote
                else _nothing_found(pattern)
            )
        for path in sorted(found):
            if remote:
                files.setdefault(path, RemoteFile(path))
            else:
                files.setdefault(os.path.realpath(path), Path(path))
    return list(files.values())


def matches_here(pattern: str) -> bool:
    """Tells whether a pattern that is no URL finds a file on this machine; looks no further than the first."""
    path = _absolute(pattern)
    try:
        if Path(path).is_file():
            return True
        found = _paths_below(path) if Path(path).is_dir() else _glob(path, hidden=_names_hidden(path))
        return any(Path(name).is_file() for name in found)
    except OSError:
        return False


def _expand(pattern: str, exclusions: "_Exclusions") -> tuple[list[str], bool]:
    """Returns the files of a pattern, and whether something was left out of them."""
    path = _absolute(pattern)
    try:
        if Path(path).is_file():
            kept = [] if exclusions.match(path, os.path.dirname(path)) else [path]  # noqa: PTH120
            return kept, not kept
        if Path(path).is_dir():
            return _files_below(path, exclusions)
    except OSError as error:
        raise TextError(f"text {pattern}: cannot be looked at ({error.strerror})") from None
    root = os.fspath(_static_folder(Path(path)))
    found: list[str] = []
    left_out = False
    for name in _glob(path, hidden=_names_hidden(path)):
        if exclusions.match(name, root):
            left_out = True
        elif Path(name).is_file():
            found.append(name)
    return found, left_out


def _expand_url(pattern: str, exclusions: "_Exclusions") -> tuple[list[str], bool]:
    """Returns the URLs of the files of a pattern that is one, and whether something was left out of them."""
    filesystem, path = filesystem_of(pattern)
    try:
        with remote_errors():
            if filesystem.isfile(path):
                root, names = path.rpartition("/")[0], [path]
            elif _WILDCARDS.search(path):
                root = _WILDCARDS.split(path, maxsplit=1)[0].rpartition("/")[0]
                names = [name for name, about in filesystem.glob(path, detail=True).items() if about["type"] == "file"]
            else:
                root, names = path.rstrip("/"), list(filesystem.find(path))
    except OSError as error:
        raise TextError(f"text {pattern}: cannot be looked at ({error.strerror or error})") from None
    hidden = "/." in path
    names = [name for name in names if hidden or "/." not in name[len(root) :]]
    kept = [filesystem.unstrip_protocol(name) for name in names if not exclusions.match(name, root)]
    return kept, len(kept) < len(names)


def _absolute(pattern: str) -> str:
    # os.path, not Path: patterns are strings, `~unknown` must stay as it is, and links must not be followed.
    if pattern.startswith(_STANDARD_LIBRARY):
        return os.path.join(sysconfig.get_paths()["stdlib"], pattern.removeprefix(_STANDARD_LIBRARY))  # noqa: PTH118
    return os.path.abspath(os.path.expanduser(pattern))  # noqa: PTH100, PTH111


def _files_below(folder: str, exclusions: "_Exclusions") -> tuple[list[str], bool]:
    """Returns the files below a folder; folders that are left out are not even looked into."""
    left_out = False

    def stays(path: str) -> bool:
        nonlocal left_out
        excluded = exclusions.match(path, folder)
        left_out = left_out or excluded
        return not excluded

    found = [path for path in _paths_below(folder, stays=stays) if stays(path) and os.path.isfile(path)]  # noqa: PTH113
    return found, left_out


def _paths_below(folder: str, *, hidden: bool = False, stays: Callable[[str], bool] = lambda _: True) -> Iterator[str]:
    """Yields the paths of all that is below a folder and is none itself; what `stays` refuses is not entered.

    Links to folders are followed, each folder is entered once: by its own name if it is below this one itself.

    Raises:
        TextError: if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise TextError(f"{error.filename}: this folder cannot be read ({error.strerror})")

    entered: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        links: list[str] = []
        for top in waiting:
            for parent, folders, names in os.walk(top, onerror=refuse):
                about = os.stat(parent)  # noqa: PTH116
                if (about.st_dev, about.st_ino) in entered:
                    folders.clear()
                    continue
                entered.add((about.st_dev, about.st_ino))
                join = partial(os.path.join, parent)
                kept = [name for name in sorted(folders) if hidden or not name.startswith(".")]
                kept = [name for name in kept if stays(join(name))]
                linked = {name for name in kept if os.path.islink(join(name))}  # noqa: PTH114
                links += [join(name) for name in kept if name in linked]
                folders[:] = [name for name in kept if name not in linked]
                yield from (join(name) for name in names if hidden or not name.startswith("."))
        waiting = links


def _glob(path: str, *, hidden: bool) -> Iterator[str]:
    """Yields what a pattern matches; below `**` files alone, and no folder twice however links go round."""
    parts = Path(path).parts
    if "**" not in parts:
        yield from glob.iglob(path, include_hidden=hidden)  # noqa: PTH207
        return
    first = parts.index("**")
    rest = "/".join(part if part == "**" else re.sub(r"\*\*+", "*", part) for part in parts[first:])
    expression = re.compile(_glob_expression(rest), re.DOTALL)
    top = os.fspath(Path(*parts[:first]))
    folders = [top] if Path(top).is_dir() else glob.iglob(top, include_hidden=hidden)  # noqa: PTH207
    for folder in folders:
        if os.path.isdir(folder):  # noqa: PTH112
            skip = len(folder.rstrip("/")) + 1
            yield from (name for name in _paths_below(folder, hidden=hidden) if expression.fullmatch(name[skip:]))


def _names_hidden(path: str) -> bool:
    """Tells whether a pattern names hidden things itself, and so means them."""
    return any(part.startswith(".") for part in Path(path).parts)


def _static_folder(path: Path) -> Path:
    """Returns the part of a glob before its first wildcard."""
    parts = path.parts
    first = next((number for number, part in enumerate(parts) if _WILDCARDS.search(part)), len(parts) - 1)
    return Path(*parts[:first])


def _nothing_found(pattern: str) -> str:
    path = Path(_absolute(pattern))
    if path.is_dir():
        return f"text {pattern}: this folder has no files; put text into it or name another"
    if _WILDCARDS.search(pattern):
        folder = _static_folder(path)
        where = "" if folder.is_dir() else f" ({folder} does not exist)"
        return f"text {pattern}: no file matches this pattern{where}"
    return f"text {pattern}: no such file or folder (relative paths start at {Path.cwd()})"


@dataclass(frozen=True)
class _Exclusion:
    """One pattern of files to leave out; `anywhere`: it also holds for paths from elsewhere than a pattern's root."""

    expression: re.Pattern[str]
    anywhere: bool

    @classmethod
    def parse(cls, pattern: str) -> "_Exclusion":
        expanded = os.path.expanduser(pattern).removeprefix("./").rstrip("/")  # noqa: PTH111
        anchored = "/" in expanded
        prefix = "" if anchored else "(?:.*/)?"
        expression = re.compile(f"{prefix}{_glob_expression(expanded)}(?:/.*)?", re.DOTALL)
        return cls(expression, anchored and not expanded.startswith("**"))


@dataclass(frozen=True)
class _Exclusions:
    """All patterns of files to leave out, and the working folder that they may start from."""

    exclusions: Sequence[_Exclusion]
    working_folder: str

    def match(self, path: str, root: str) -> bool:
        """Says whether an absolute path, found below root, is left out."""
        if not self.exclusions:
            return False
        below = path[len(root) :].lstrip("/")
        elsewhere = [path]
        if path.startswith(self.working_folder.rstrip("/") + "/"):
            elsewhere.append(path[len(self.working_folder) :].lstrip("/"))
        return any(
            exclusion.expression.fullmatch(below)
            or (exclusion.anywhere and any(map(exclusion.expression.fullmatch, elsewhere)))
            for exclusion in self.exclusions
        )


def _glob_expression(pattern: str) -> str:
    """Returns a glob as a regular expression: `*` and `?` stay within a folder, `**` does not."""
    expression = ""
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            expression += "(?:.*/)?"
            position += 3
        elif pattern.startswith("**", position):
            expression += ".*"
            position += 2
        elif pattern[position] == "*":
            expression += "[^/]*"
            position += 1
        elif pattern[position] == "?":
            expression += "[^/]"
            position += 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            characters = pattern[position + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            characters = "^" + characters[1:] if characters[0] == "!" else characters
            expression += f"[{characters}]"
            position = end + 1
        else:
            expression += re.escape(pattern[position])
            position += 1
    return expression
