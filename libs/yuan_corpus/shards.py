"""A corpus divided into shards that can be made on their own, and what of them is there already.

A shard is a run of slices of about SHARD_BYTES of stored text; how text is divided follows from the files alone. Made,
it is a `.bin`/`.idx` pair, counts of its tokens, and last, once those are on the disk, a `.json` that says what is in
them and of which text, tokenizer and rules (`Shard.key`). What lacks it, or has another key, or other sizes than it
says, is not there. Making them is in `tokenization.py`.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus.documents import SkipLog, TextSlice
from yuan_corpus.files import replace_durably, write_text_durably
from yuan_corpus.indexed_layout import HEADER, data_path, index_path
from yuan_corpus.sources import Source

SHARD_BYTES = 1 << 30
"""Stored text of a shard: what a killed process costs, and about the size of a `.bin`."""

_FORMAT = 2


@dataclass(frozen=True)
class Shard:
    """A part of a corpus.

    Attributes:
        number: from 0.
        slices: its text.
        key: sha256 over all that its content follows from.
    """

    number: int
    slices: Sequence[TextSlice]
    key: str

    @property
    def name(self) -> str:
        """Of its files, without suffix."""
        return f"part-{self.number:05}"

    @property
    def size(self) -> int:
        """Bytes of stored text."""
        return sum(part.size for part in self.slices)


@dataclass(frozen=True)
class MadeShard:
    """What is in a shard.

    Attributes:
        name: of its files, without suffix.
        documents: 0: it has no `.bin` and `.idx`.
        tokens: of all documents.
        text_bytes: UTF-8 bytes of the documents.
        data_bytes: of the `.bin`.
        skipped: what was broken.
        counts: int64 [vocabulary], how often each token occurs.
        cleaning: `CleaningReport.table`; None: nothing was cleaned, or all shards share one report.
        seconds: that each stage of cleaning took.
    """

    name: str
    documents: int
    tokens: int
    text_bytes: int
    data_bytes: int
    skipped: SkipLog
    counts: npt.NDArray[np.int64]
    cleaning: Mapping[str, Any] | None = None
    seconds: Sequence[float] = field(default_factory=tuple[float, ...])


def plan_shards(slices: Sequence[TextSlice], stamps: Mapping[Source, str], rules: str, shard_bytes: int) -> list[Shard]:
    """Divides a corpus.

    Args:
        slices: all of it, in order.
        stamps: `stamp_of` every file.
        rules: all else that the outcome follows from.
        shard_bytes: a shard is ended once it has so many; a file that must be read from its beginning is in one shard.
    """
    groups: list[list[TextSlice]] = []
    size = shard_bytes
    for part in slices:
        if size >= shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += part.size
    return [
        Shard(number, group, _key(group, number, stamps, hashlib.sha256(rules.encode()).hexdigest()))
        for number, group in enumerate(groups)
    ]


def _key(slices: Sequence[TextSlice], number: int, stamps: Mapping[Source, str], rules: str) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {number} {rules}".encode())
    for part in slices:
        told = [str(part.path), stamps[part.path], part.format, part.start, part.stop, part.encoding, part.broken]
        digest.update(json.dumps(told).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def keep(made: MadeShard, shard: Shard, scratch: Path, folder: Path) -> None:
    """Puts a shard's files from the folder in which they were written into the one where they are looked for.

    Raises:
        OSError: if the disk is full.
    """
    counts = scratch / f"{made.name}.counts.npy.tmp"
    with counts.open("wb") as file:
        np.save(file, made.counts)
    replace_durably(counts, folder / f"{made.name}.counts.npy")
    if made.documents and scratch != folder:
        for path in (data_path(scratch / made.name), index_path(scratch / made.name)):
            path.replace(folder / path.name)
    table = asdict(made)
    del table["counts"]
    text = json.dumps({**table, "key": shard.key}, ensure_ascii=False)
    write_text_durably(folder / f"{made.name}.json", text + "\n")


def made_before(shard: Shard, folder: Path) -> MadeShard | None:
    """Returns a shard that is there whole, else None."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        table: dict[str, Any] = json.loads((folder / f"{shard.name}.json").read_text(encoding="utf-8"))
        if table.pop("key") != shard.key:
            return None
        counts = np.load(folder / f"{shard.name}.counts.npy", allow_pickle=False)
        table["skipped"] = SkipLog(**table["skipped"])
        made = MadeShard(**table, counts=counts)
        prefix = folder / shard.name
        if not made.documents:
            return made
        index_bytes = HEADER.size + 12 * made.documents + 8 * (made.documents + 1)
        sizes = (data_path(prefix).stat().st_size, index_path(prefix).stat().st_size)
        return made if sizes == (made.data_bytes, index_bytes) else None
    return None


def lay(name: str, folder: Path, output: Path) -> None:
    """Lays a shard's pair into the dataset: as a further name of the same files where the file system can.

    Raises:
        OSError: if the disk is full.
    """
    if folder == output:
        return
    for path in (data_path(folder / name), index_path(folder / name)):
        target = output / path.name
        try:
            target.hardlink_to(path)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, target)
