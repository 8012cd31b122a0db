"""Index arrays kept between runs, under a hash of all that they are made from: nothing stale can be found there.

Meant for those that take long to make; small ones are made anew faster than they are read.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SMALLEST_KEPT = 1_000_000
"""Documents, or choices of a blend, below which arrays are better made than read."""

_FORMAT = "1"
"""Of what is kept; another one finds nothing of this."""


def kept_arrays(
    folder: Path | None,
    made_from: Mapping[str, Any],
    content: Sequence[Array],
    names: Sequence[str],
    make: Callable[[], Sequence[Array]],
) -> Sequence[Array]:
    """Returns arrays, from the cache where they are there, mapped into memory.

    Processes may do the same at once. A cache that cannot be read or written is done without.

    Args:
        folder: of the cache; made if there is none. None: there is no cache.
        made_from: parameters of `make`, JSON's types.
        content: arrays that `make` reads.
        names: of the arrays, in order.
        make: makes them.
    """
    if folder is None:
        return make()
    place = folder / _digest(made_from, content)
    try:
        return [np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names]
    except (OSError, ValueError, EOFError):
        arrays = make()
    with contextlib.suppress(OSError):  # a full disk costs the cache, not the run
        _keep(place, dict(zip(names, arrays, strict=True)))
    return arrays


def _digest(made_from: Mapping[str, Any], content: Sequence[Array]) -> str:
    whole = hashlib.sha256(json.dumps([_FORMAT, made_from], sort_keys=True).encode())
    for array in content:
        whole.update(f"{array.dtype.str}{array.shape}".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()


def _keep(place: Path, arrays: Mapping[str, Array]) -> None:
    """Writes a folder of arrays, which never exists half-written under its name."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".tmp-", dir=place.parent))
    try:
        for name, array in arrays.items():
            with (scratch / f"{name}.npy").open("wb") as file:
                np.save(file, array)
                os.fsync(file.fileno())
        if place.exists():  # damaged, or another process was faster
            shutil.rmtree(place, ignore_errors=True)
        scratch.rename(place)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
