"""The files of a benchmark: from a folder or a URL, of a version that is known, line by line.

A file that is missing or another version is refused, with its hash; a line that is none is named, counted and left out.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yuan_corpus.errors import TextError
from yuan_corpus.sources import RemoteFile, is_url, open_source
from yuan_evaluator.task import BadRow, DataFile, Item, Task
from yuan_events import InputError

_SHOWN_ROWS = 3


@dataclass(frozen=True)
class TaskData:
    """What was read for a task.

    Attributes:
        items: the questions.
        sha256: of each file that was read, by its path.
        malformed: lines that are no question: `FILE:LINE: why`.
    """

    items: tuple[Item, ...]
    sha256: dict[str, str]
    malformed: tuple[str, ...] = ()

    @property
    def malformed_summary(self) -> str:
        """One line on them; empty if there are none."""
        if not self.malformed:
            return ""
        more = f" and {len(self.malformed) - _SHOWN_ROWS} more" if len(self.malformed) > _SHOWN_ROWS else ""
        return f"{len(self.malformed)} malformed rows left out: {'; '.join(self.malformed[:_SHOWN_ROWS])}{more}"


def read_file(folder: str, path: str) -> bytes:
    """Returns a file's bytes.

    Args:
        folder: a path or a URL.
        path: below it.

    Raises:
        FileNotFoundError: if there is none.
        InputError: if it cannot be read.
    """
    place = RemoteFile(f"{folder.rstrip('/')}/{path}") if is_url(folder) else Path(folder).expanduser() / path
    try:
        with open_source(place) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except TextError as error:
        raise InputError(f"inputs.data: {error}") from None
    except OSError as error:
        raise InputError(f"inputs.data: {place} cannot be read ({error.strerror or error})") from None


def files_of(task: Task, folder: str, *, other: bool = False) -> dict[str, bytes]:
    """Returns the bytes of a task's files, by path.

    Args:
        task: whose files.
        folder: `inputs.data`.
        other: also those of versions that are not known.

    Raises:
        InputError: if one is missing, or of another version.
    """
    found: dict[str, bytes] = {}
    for file in task.files:
        try:
            found[file.path] = read_file(folder, file.path)
        except FileNotFoundError:
            if file.optional:
                continue
            raise InputError(
                f"inputs.data: {folder} has no {file.path}, which {task.name} reads "
                f"(sha256 {file.sha256[0][:12]}…); see yuan evaluate --list"
            ) from None
        _check_version(task, file, found[file.path], other=other)
    return found


def _check_version(task: Task, file: DataFile, data: bytes, *, other: bool) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest not in file.sha256 and not other:
        raise InputError(
            f"inputs.data: {file.path} is another version than {task.name} knows: its sha256 is {digest}, expected "
            f"{' or '.join(file.sha256)}; evaluate.other_data=true takes it all the same"
        )


def read_task(task: Task, folder: str, *, other: bool = False) -> TaskData:
    """Reads a task's questions.

    Raises:
        InputError: as `files_of`; or if no line is a question.
    """
    files = files_of(task, folder, other=other)
    first = task.files[0].path
    items: list[Item] = []
    malformed: list[str] = []
    for number, (place, row) in enumerate(_rows(files[first], first)):
        try:
            if isinstance(row, BadRow):
                raise row
            items.append(task.read(row, number, files))
        except BadRow as error:
            malformed.append(f"{place}: {error}")
    if not items:
        why = f" ({malformed[0]})" if malformed else ""
        raise InputError(f"inputs.data: {first} has no question of {task.name}{why}")
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    return TaskData(tuple(items), digests, tuple(malformed))


def _rows(data: bytes, name: str) -> Iterator[tuple[str, str | BadRow]]:
    """Yields the lines of a file, or the members of its JSON array, with where they stand."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise InputError(f"inputs.data: {name}: not a whole gzip file ({error})") from None
    if data.lstrip()[:1] == b"[" and name.endswith(".json"):
        try:
            rows = json.loads(data)
        except ValueError as error:
            raise InputError(f"inputs.data: {name}: not JSON ({error})") from None
        yield from ((f"{name}[{index}]", json.dumps(row, ensure_ascii=False)) for index, row in enumerate(rows))
        return
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            text: str | BadRow = line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError:
            text = BadRow("not UTF-8")
        yield f"{name}:{number}", text


def fingerprint_of(tasks: list[Task], folder: str, *, other: bool) -> str:
    """Returns a digest of all files that tasks read; for a job's identity.

    Raises:
        InputError: as `files_of`.
    """
    digest = hashlib.sha256()
    for task in tasks:
        for path, data in sorted(files_of(task, folder, other=other).items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()
