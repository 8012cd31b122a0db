"""The files of a benchmark: from a folder or a URL, of a version that is known, line by line.

A file that is missing or another version is refused, with its hash; a line that is none is named, counted and left out.
"""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
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
        examples: worked examples of a file of their own; empty: other questions are.
    """

    items: tuple[Item, ...]
    sha256: dict[str, str]
    malformed: tuple[str, ...] = ()
    examples: tuple[Item, ...] = ()

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
        path: below it; or a URL, or a whole path, which does without the folder.

    Raises:
        FileNotFoundError: if there is none.
        InputError: if it cannot be read.
    """
    place: RemoteFile | Path
    if is_url(path) or (is_url(folder) and not Path(path).is_absolute()):
        place = RemoteFile(path if is_url(path) else f"{folder.rstrip('/')}/{path}")
    else:
        place = Path(folder).expanduser() / Path(path).expanduser()
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
    items, malformed = _items(files[first], first, lambda line, number: task.read(line, number, files))
    if not items:
        why = f" ({malformed[0]})" if malformed else ""
        raise InputError(f"inputs.data: {first} has no question of {task.name}{why}")
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    return TaskData(tuple(items), digests, tuple(malformed))


def with_examples(found: TaskData, task: Task, folder: str, path: str, count: int) -> TaskData:
    """Returns a task's data with worked examples of a file.

    Args:
        found: what was read for the task.
        task: whose examples.
        folder: `inputs.data`.
        path: of the file, as `read_file` takes it.
        count: that stand before each question.

    Raises:
        InputError: if the file is missing, or has fewer examples than that.
    """
    field = f"evaluate.examples.{task.name}"
    try:
        data = read_file(folder, path)
    except FileNotFoundError:
        raise InputError(f"{field}: {path} is not there (below {folder}, or a whole path or URL)") from None
    read = task.read_example or (lambda line, number: task.read(line, number, {}))
    examples, malformed = _items(data, path, read)
    if len(examples) < count:
        why = f" ({malformed[0]})" if malformed else ""
        raise InputError(f"{field}: {path} has {len(examples)} examples, evaluate.few_shot is {count}{why}")
    return replace(
        found,
        examples=tuple(examples),
        malformed=found.malformed + tuple(malformed),
        sha256=found.sha256 | {path: hashlib.sha256(data).hexdigest()},
    )


def _items(data: bytes, name: str, read: Callable[[str, int], Item]) -> tuple[list[Item], list[str]]:
    """Returns the items of a file, and which of its rows are none."""
    items: list[Item] = []
    malformed: list[str] = []
    for number, (place, row) in enumerate(_rows(data, name)):
        try:
            if isinstance(row, BadRow):
                raise row
            items.append(read(row, number))
        except BadRow as error:
            malformed.append(f"{place}: {error}")
    return items, malformed


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


def fingerprint_of(tasks: list[Task], folder: str, examples: Mapping[str, str], *, other: bool) -> str:
    """Returns a digest of all files that tasks read; for a job's identity.

    Args:
        tasks: that are asked.
        folder: `inputs.data`.
        examples: by task the file of its worked examples, which is looked for when it is read.
        other: also take versions that are not known.

    Raises:
        InputError: as `files_of`.
    """
    digest = hashlib.sha256()
    for task in tasks:
        for path, data in sorted(files_of(task, folder, other=other).items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(data).digest())
        if task.name in examples:
            with suppress(FileNotFoundError):
                digest.update(hashlib.sha256(read_file(folder, examples[task.name])).digest())
    return digest.hexdigest()
