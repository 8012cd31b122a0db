"""Writer of `.bin`/`.idx` pairs (`indexed_layout.py`), whole or not at all."""

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from yuan_corpus.errors import IndexedDatasetError
from yuan_corpus.files import EarlySync, replace_durably
from yuan_corpus.indexed_layout import CODE_OF_DTYPE, HEADER, LONGEST_ITEM, MAGIC, VERSION, data_path, index_path


class IndexedDatasetWriter:
    """Writes a `.bin`/`.idx` pair; both get their names only when whole, the `.idx` last.

    Use it in a `with` block: leaving it without an error finishes the pair, an error removes what was written. A
    killed process leaves only `.tmp` files.
    """

    def __init__(self, prefix: Path | str, dtype: npt.DTypeLike) -> None:
        """Opens the `.bin` file's temporary.

        Args:
            prefix: path without suffixes; its folder must exist.
            dtype: integer type to store ids in (see `dtype_for_vocabulary`).

        Raises:
            IndexedDatasetError: if the dtype has no code in the format.
        """
        self.prefix = Path(prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        if self.dtype not in CODE_OF_DTYPE or self.dtype.kind == "f":
            raise IndexedDatasetError(f"{self.prefix}: token ids cannot be stored as {self.dtype.name}")
        self._temporary_data = data_path(self.prefix).with_name(self.prefix.name + ".bin.tmp")
        self._temporary_index = index_path(self.prefix).with_name(self.prefix.name + ".idx.tmp")
        self._file = self._temporary_data.open("wb")
        self._sync = EarlySync(self._file)
        self._lengths: list[npt.NDArray[np.int32]] = []
        # Where documents end, as ranges of items: where each is one item, as most are, a range is many documents.
        self._documents: list[range] = [range(1)]
        self.item_count = 0
        self.token_count = 0

    def add_item(self, ids: npt.ArrayLike) -> None:
        """Appends one item to the document that is being written; `end_document` ends that.

        Raises:
            IndexedDatasetError: if an id does not fit the dtype, or the item is longer than the format can say.
        """
        array = np.asarray(ids, dtype=np.int64).reshape(-1)
        self._append(array, np.array([len(array)], np.int64))

    def end_document(self) -> None:
        """Ends the document that the last items belong to."""
        self._documents.append(range(self.item_count, self.item_count + 1))

    def add_document(self, ids: npt.ArrayLike) -> None:
        """Appends a document that is one item."""
        self.add_item(ids)
        self.end_document()

    def add_documents(self, ids: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> None:
        """Appends many documents of one item each.

        Args:
            ids: integers [sum of lengths], the documents' ids back to back.
            lengths: integers [number of documents].

        Raises:
            ValueError: if the lengths do not add up.
            IndexedDatasetError: as `add_item`.
        """
        counts = lengths.astype(np.int64)
        if int(counts.sum()) != len(ids):
            raise ValueError(f"lengths add up to {int(counts.sum())} where there are {len(ids)} ids")
        first = self.item_count
        self._append(ids, counts)
        self._documents.append(range(first + 1, self.item_count + 1))

    def _append(self, ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> None:
        if len(ids):
            limits = np.iinfo(self.dtype.name)
            lowest, highest = int(ids.min()), int(ids.max())
            if lowest < limits.min or highest > limits.max:
                raise IndexedDatasetError(
                    f"{self.prefix}: ids from {lowest} to {highest} do not fit {self.dtype.name}; take a wider dtype"
                )
        if len(lengths) and int(lengths.max()) > LONGEST_ITEM:
            raise IndexedDatasetError(
                f"{self.prefix}: a document of {int(lengths.max())} tokens is longer than the format's "
                f"{LONGEST_ITEM}; cut it into several"
            )
        data = np.ascontiguousarray(ids, self.dtype).data
        self._file.write(data)
        self._sync.wrote(data.nbytes)
        self._lengths.append(lengths.astype(np.int32))
        self.item_count += len(lengths)
        self.token_count += len(ids)

    def finish(self) -> None:
        """Writes the index, makes both files durable and gives them their names."""
        self._sync.begin()
        code = CODE_OF_DTYPE[self.dtype]
        documents = sum(map(len, self._documents))
        with self._temporary_index.open("wb") as index:
            index.write(HEADER.pack(MAGIC, VERSION, code, self.item_count, documents))
            for lengths in self._lengths:
                index.write(lengths.astype("<i4").data)
            offset = 0
            for lengths in self._lengths:
                ends = offset + np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
                index.write((ends - lengths.astype(np.int64) * self.dtype.itemsize).astype("<i8").data)
                offset = int(ends[-1]) if len(ends) else offset
            for ended in self._documents:
                index.write(np.arange(ended.start, ended.stop, dtype="<i8").data)
        self._sync.end()
        self._file.close()
        replace_durably(self._temporary_data, data_path(self.prefix))
        replace_durably(self._temporary_index, index_path(self.prefix))

    def discard(self) -> None:
        """Removes what was written."""
        with suppress(OSError):  # it is not to be kept
            self._sync.end()
        self._file.close()
        self._temporary_data.unlink(missing_ok=True)
        self._temporary_index.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finishes the pair, or discards it after an error."""
        if kind is None:
            self.finish()
        else:
            self.discard()
