"""Digests: what makes two jobs the same job, and two folders the same content."""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

_CHUNK = 1 << 20


def canonical_json(value: Any) -> str:
    """Returns JSON that is equal for equal values: sorted keys, no spaces, plain UTF-8.

    Raises:
        TypeError, ValueError: for what JSON cannot hold (objects, NaN).
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def plain_json(value: Any) -> Any:
    """Returns a value as what JSON can hold: NaN and infinities become null, numbers of other libraries plain ones.

    What it cannot convert becomes text: a result is never lost for the sake of a note on it.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in cast("Iterable[Any]", value)]
    if callable(to_plain := getattr(value, "tolist", None)):  # NumPy and torch
        return plain_json(to_plain())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def digest_of(value: Any) -> str:
    """Returns the sha256 hex digest of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def job_identity(recipe: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Returns the identity of a job: sha256 hex over its recipe and the versions of its inputs.

    Topology and cluster are not in it: the same recipe on other hardware is the same job.

    Args:
        recipe: `job.recipe()`.
        inputs: by input name, an artifact's `kind/name@version:digest` or the digest of other inputs.
    """
    return digest_of({"recipe": recipe, "inputs": dict(inputs)})


def digest_of_file(path: Path) -> str:
    """Returns the sha256 hex digest of a file's bytes.

    Raises:
        OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_files(paths: Iterable[Path], unreadable: Collection[Path] = ()) -> str:
    """Returns one sha256 hex digest over the relative names and the contents of files.

    Names are taken relative to the files' common folder, so that a moved corpus is the same corpus. Order does not
    matter.

    Args:
        paths: of the files.
        unreadable: those of them that may be so: such a file counts as one that cannot be read, and as another as
            soon as it can be.

    Raises:
        OSError: if one of the others cannot be read.
    """
    may_fail = {path.absolute() for path in unreadable}
    files = sorted({path.absolute() for path in paths})
    folders = {path.parent for path in files}
    common = Path(*_common_parts([folder.parts for folder in folders])) if folders else Path()
    lines = [[path.relative_to(common).as_posix(), _digest_or_none(path, path in may_fail)] for path in files]
    return digest_of(sorted(lines))


def _digest_or_none(path: Path, may_fail: bool) -> str | None:
    try:
        return digest_of_file(path)
    except OSError:
        if not may_fail:
            raise
        return None


def _common_parts(paths: list[tuple[str, ...]]) -> list[str]:
    """Returns the longest common beginning of several paths' parts."""
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common
