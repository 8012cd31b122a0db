"""Reader of `.bin`/`.idx` pairs (`indexed_layout.py`): mapped into memory, checked when opened.

Not here: several pairs seen as one (`sharded_dataset.py`) and samples cut from them (`packing.py`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus.errors import IndexedDatasetError
from yuan_corpus.indexed_layout import DTYPE_OF_CODE, HEADER, MAGIC, VERSION, data_path, index_path

Int64Array = npt.NDArray[np.int64]


class IndexedDataset:
    """Items of token ids in a `.bin`/`.idx` pair, mapped into memory, checked when opened.

    Attributes:
        prefix: path of the pair without its suffixes.
        dtype: of the stored ids.
        lengths: int32 [n], tokens of each item.
        documents: int64 [m], item index at each document's start, ending with n. Where the file has only [0], as
            the original's document mode writes it, every item is a document: [0, 1, ..., n].
        document_array_stored: whether the file has the whole document array.
    """

    def __init__(self, prefix: Path | str) -> None:
        """Opens and checks a pair.

        Args:
            prefix: path without `.bin`/`.idx`; a path that ends in one of them is understood too.

        Raises:
            IndexedDatasetError: with file and fault, if one is missing, unreadable or inconsistent.
        """
        path = Path(prefix)
        self.prefix = path.with_suffix("") if path.suffix in {".bin", ".idx"} else path
        self._index_file = index_path(self.prefix)
        self._data_file = data_path(self.prefix)
        data_bytes = _size_of(self._data_file)
        index = _map(self._index_file, _size_of(self._index_file))
        item_count, document_count = self._read_header(index)
        lengths_end = HEADER.size + 4 * item_count
        offsets_end = lengths_end + 8 * item_count
        self.lengths: npt.NDArray[np.int32] = np.frombuffer(index, "<i4", item_count, HEADER.size)
        self._offsets: Int64Array = np.frombuffer(index, "<i8", item_count, lengths_end)
        stored: Int64Array = np.frombuffer(index, "<i8", document_count, offsets_end)
        self._check_items(data_bytes)
        self._check_documents(stored, item_count)
        self.document_array_stored = int(stored[-1]) == item_count
        self.documents: Int64Array = stored if self.document_array_stored else np.arange(item_count + 1)
        self._data = _map(self._data_file, data_bytes)

    def _fault(self, what: str) -> IndexedDatasetError:
        return IndexedDatasetError(f"{self._index_file}: {what}; make the dataset anew")

    def _read_header(self, index: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """Sets the dtype and returns n and m, once magic, version and the file's size are right."""
        size = len(index)
        if size < HEADER.size:
            raise self._fault(f"{size} bytes are too few for an index (its header has {HEADER.size})")
        magic, version, code, item_count, document_count = HEADER.unpack(index[: HEADER.size].tobytes())
        if magic != MAGIC:
            raise self._fault(f"not an index of a .bin file: it starts with {magic!r} and not with {MAGIC!r}")
        if version != VERSION:
            raise self._fault(f"version {version}; only {VERSION} is known")
        if code not in DTYPE_OF_CODE:
            raise self._fault(f"dtype code {code} is unknown (codes are 1 to 8)")
        self.dtype = DTYPE_OF_CODE[code]
        if self.dtype.kind == "f":
            raise self._fault(f"items are stored as {self.dtype.name}; token ids are integers")
        expected = HEADER.size + 12 * item_count + 8 * document_count
        # Megatron-Core may append one int8 mode an item (multimodal data); they say nothing about text.
        if size not in (expected, expected + item_count):
            raise self._fault(
                f"it has {size} bytes where {item_count} items and {document_count} document starts need {expected}"
            )
        if document_count < 1:
            raise self._fault("its document array is empty; it must begin with 0")
        return item_count, document_count

    def _check_items(self, data_bytes: int) -> None:
        """Checks that every item lies inside the `.bin` file."""
        if not len(self.lengths):
            return
        if int(self.lengths.min()) < 0:
            item = int(np.argmax(self.lengths < 0))
            raise self._fault(f"item {item} has the negative length {int(self.lengths[item])}")
        # Both comparisons stay below 2**63: a garbled offset near its limits must not overflow into a valid one.
        room = data_bytes - self.lengths.astype(np.int64) * self.dtype.itemsize
        outside = (self._offsets < 0) | (self._offsets > room)
        if outside.any():
            item = int(np.argmax(outside))
            raise self._fault(
                f"item {item} ({int(self.lengths[item])} tokens at byte {int(self._offsets[item])}) lies outside "
                f"{self._data_file.name}, which has {data_bytes} bytes"
            )

    def _check_documents(self, documents: Int64Array, item_count: int) -> None:
        """Checks that document starts rise from 0 to n; [0] alone is the original's document mode."""
        if int(documents[0]) != 0:
            raise self._fault(f"its document array begins with {int(documents[0])} and not with 0")
        if len(documents) == 1:
            return
        falls = documents[1:] < documents[:-1]
        if falls.any():
            raise self._fault(f"its document array falls at position {int(np.argmax(falls)) + 1}")
        if int(documents[-1]) != item_count:
            raise self._fault(f"its document array ends with {int(documents[-1])} where it has {item_count} items")

    def __len__(self) -> int:
        """Returns the number of items."""
        return len(self.lengths)

    def __reduce__(self) -> tuple[type["IndexedDataset"], tuple[Path]]:
        """Is pickled as its path, so that a process that gets it maps the files itself."""
        return (IndexedDataset, (self.prefix,))

    @property
    def token_count(self) -> int:
        """Tokens of all items."""
        return int(self.lengths.sum(dtype=np.int64))

    def get(self, item: int, offset: int = 0, length: int | None = None) -> npt.NDArray[Any]:
        """Returns tokens of one item, as a read-only view of the file in its stored dtype.

        Args:
            item: its index; negative ones are refused.
            offset: first token.
            length: tokens to return; None: all that follow.

        Raises:
            IndexError: if there is no such item or part of one.
        """
        if not 0 <= item < len(self.lengths):
            raise IndexError(f"item {item} of {len(self.lengths)}")
        tokens = int(self.lengths[item])
        count = tokens - offset if length is None else length
        if offset < 0 or count < 0 or offset + count > tokens:
            raise IndexError(f"tokens {offset} to {offset + count} of item {item}, which has {tokens}")
        start = int(self._offsets[item]) + offset * self.dtype.itemsize
        return np.frombuffer(self._data, self.dtype, count, start)

    def __getitem__(self, item: int) -> npt.NDArray[Any]:
        """Returns all tokens of an item."""
        return self.get(item)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise IndexedDatasetError(f"{path}: no such file; a dataset is a .bin and an .idx side by side") from None
    except OSError as error:
        raise IndexedDatasetError(f"{path}: cannot be read ({error.strerror})") from None


def _map(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """Maps a file's first `size` bytes read-only; an empty file, which cannot be mapped, is an empty array."""
    if size == 0:
        return np.zeros(0, np.uint8)
    try:
        return np.memmap(path, np.uint8, mode="r", shape=(size,))
    except (OSError, ValueError) as error:
        raise IndexedDatasetError(f"{path}: cannot be mapped into memory ({error})") from None
