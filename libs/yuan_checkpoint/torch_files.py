"""Files of `torch.save`, read and written without loading them: a zip of one pickle and one entry a storage.

Reading gives the pickle's values with places of tensors (`unpickling`), each checked to lie within the file; the older
form without a zip is read too. Writing streams: no tensor is ever held whole.
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from yuan_checkpoint.entries import Entry
from yuan_checkpoint.unpickling import LARGEST_PICKLE, PickledTensor, Storage, UnreadableFileError, unpickle

_ROOT = "archive"
_ALIGNMENT = 64
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_CLASSES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}


@dataclass(frozen=True)
class TorchFile:
    """A file of torch.save. content: what it holds, with `PickledTensor` for every tensor."""

    path: Path
    content: Any
    _starts: Mapping[str, int]

    def entry(self, key: str, tensor: PickledTensor) -> Entry:
        """Returns where a tensor of the content is."""
        item = tensor.storage.dtype.itemsize
        start = self._starts[tensor.storage.key] + tensor.offset * item
        return Entry(self.path, key, tensor.storage.dtype, tensor.shape, start, tensor.stride)


def open_torch_file(path: Path) -> TorchFile:
    """Reads a file's pickle and checks that every tensor's values are in the file.

    Raises:
        UnreadableFileError: naming the file and what is wrong with it; nothing of it is run.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
            return _open_zip(path, file) if is_zip else _open_legacy(path, file)
    except FileNotFoundError as error:
        raise UnreadableFileError(f"{path}: missing") from error
    except OSError as error:
        raise UnreadableFileError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OverflowError, zlib.error) as error:
        if isinstance(error, UnreadableFileError):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UnreadableFileError(
            f"{path}: not readable as a file of torch.save: {reason}; it may be cut off"
        ) from error


def tensors_below(tree: Any, prefix: str = "") -> Iterator[tuple[str, PickledTensor]]:
    """Yields the tensors of nested tables with their paths, joined by points."""
    stack: list[tuple[str, Any, int]] = [(prefix, tree, 0)]
    while stack:
        path, value, depth = stack.pop()
        if isinstance(value, PickledTensor):
            yield path, value
        elif isinstance(value, dict) and depth < 20:
            table = cast("dict[Any, Any]", value)
            below = [(f"{path}.{key}" if path else str(key), item, depth + 1) for key, item in table.items()]
            stack.extend(reversed(below))


def _open_zip(path: Path, file: BinaryIO) -> TorchFile:
    size = path.stat().st_size
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        for info in infos.values():
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise UnreadableFileError(f"{path}: entry {info.filename} is packed, which torch.save never does")
        if "data.pkl" not in infos:
            raise UnreadableFileError(f"{path}: not readable as a file of torch.save: it holds no data.pkl")
        starts = {name: _start_of(path, file, info, size) for name, info in infos.items()}

        def small(name: str) -> bytes:
            if infos[name].file_size > LARGEST_PICKLE:
                raise UnreadableFileError(f"{path}: {name} of {infos[name].file_size} bytes is none of torch.save's")
            file.seek(starts[name])
            return file.read(infos[name].file_size)

        if "byteorder" in infos and small("byteorder").strip() != b"little":
            raise UnreadableFileError(f"{path}: written on a machine of other byte order; only little-endian is read")
        content = unpickle(io.BytesIO(small("data.pkl")), str(path))
    storages = {name.removeprefix("data/"): (starts[name], info.file_size) for name, info in infos.items()}
    for storage in _storages(content):
        held = storages.get(storage.key)
        if held is None or held[1] < storage.size * storage.dtype.itemsize:
            raise UnreadableFileError(f"{path}: the values of tensor storage {storage.key} are not all there")
    return TorchFile(path, content, {key: start for key, (start, _) in storages.items()})


def _start_of(path: Path, file: BinaryIO, info: zipfile.ZipInfo, size: int) -> int:
    """Returns the byte at which an entry's content begins."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise UnreadableFileError(f"{path}: entry {info.filename} is not where the file says; it may be cut off")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if start + info.file_size > size:
        raise UnreadableFileError(f"{path}: entry {info.filename} goes beyond the end of the file; it is cut off")
    return start


def _open_legacy(path: Path, file: BinaryIO) -> TorchFile:
    """Reads the form of before torch 1.6: pickles one behind the other, then length and values of each storage."""
    size = path.stat().st_size
    start = file.tell()
    file.seek(0)
    head = io.BytesIO(file.read(min(size, LARGEST_PICKLE)))
    del start
    if unpickle(head, str(path)) != _LEGACY_MAGIC:
        raise UnreadableFileError(f"{path}: not readable as a file of torch.save")
    unpickle(head, str(path))
    unpickle(head, str(path))
    content = unpickle(head, str(path))
    keys = unpickle(head, str(path))
    known = {storage.key: storage for storage in _storages(content)}
    starts: dict[str, int] = {}
    position = head.tell()
    for key in cast("list[Any]", keys if isinstance(keys, list) else []):
        file.seek(position)
        count = int.from_bytes(file.read(8), "little")
        storage = known.get(str(key))
        if storage is None or count != storage.size:
            raise UnreadableFileError(f"{path}: tensor storage {key} is not the size that its tensors say")
        starts[str(key)] = position + 8
        position += 8 + count * storage.dtype.itemsize
        if position > size:
            raise UnreadableFileError(f"{path}: the values of tensor storage {key} are cut off")
    for key in known:
        if key not in starts:
            raise UnreadableFileError(f"{path}: the values of tensor storage {key} are not there")
    return TorchFile(path, content, starts)


def _storages(content: Any) -> Iterator[Storage]:
    for _, tensor in tensors_below(content):
        yield tensor.storage


# --- writing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """Stands for a tensor in what is to be written. key: of it among the file's tensors."""

    key: str


@dataclass(frozen=True)
class _StoredValues:
    number: str
    dtype: torch.dtype
    size: int


class _Pickled:
    def __init__(self, values: _StoredValues, shape: Sequence[int]) -> None:
        self.values = values
        self.shape = tuple(shape)

    def __reduce__(self) -> Any:
        rebuild = cast("Any", torch)._utils._rebuild_tensor_v2
        strides = torch.empty(self.shape, device="meta").stride()
        return rebuild, (self.values, 0, self.shape, tuple(strides), False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, _StoredValues):
            return "storage", _STORAGE_CLASSES[obj.dtype], obj.number, "cpu", obj.size
        return None


def torch_pickle(tree: Any, tensors: Sequence[tuple[str, torch.dtype, Sequence[int]]]) -> bytes:
    """Returns the pickle of nested tables in which a `Reference` stands for each tensor.

    Args:
        tree: what torch.load is to return.
        tensors: key, dtype and shape of each; the storage of the n-th is entry n.
    """
    known = {
        key: _Pickled(_StoredValues(str(number), dtype, torch.Size(shape).numel()), shape)
        for number, (key, dtype, shape) in enumerate(tensors)
    }

    def filled(value: Any) -> Any:
        if isinstance(value, Reference):
            return known[value.key]
        if isinstance(value, dict):
            return {key: filled(item) for key, item in cast("dict[Any, Any]", value).items()}
        return value

    out = io.BytesIO()
    _Pickler(out, protocol=2).dump(filled(tree))
    return out.getvalue()


def write_torch_zip(
    file: BinaryIO, pickled: bytes, sizes: Sequence[int], write: Callable[[int, Callable[[memoryview], None]], None]
) -> None:
    """Writes a file that torch.load reads, entry after entry.

    Args:
        file: at its beginning; can be sought in.
        pickled: from `torch_pickle`.
        sizes: bytes of each storage.
        write: is called with a storage's number and a function that takes its bytes in order.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little")):
            with archive.open(_info(file, name, len(content)), "w") as entry:
                entry.write(content)
        for number, size in enumerate(sizes):
            with archive.open(_info(file, f"data/{number}", size), "w") as entry:
                write(number, lambda memory, out=entry: _write_all(out, memory))
        with archive.open(_info(file, "version", 2), "w") as entry:
            entry.write(b"3\n")


def zip_overhead(pickled: int, entries: int) -> int:
    """Returns about how many bytes a file has beside its tensors."""
    return pickled + entries * 270 + 600


def _write_all(out: Any, memory: memoryview) -> None:
    out.write(memory)


def _info(file: BinaryIO, name: str, size: int) -> zipfile.ZipInfo:
    """Returns a description of an entry whose content begins at a multiple of 64, always with the same date."""
    info = zipfile.ZipInfo(f"{_ROOT}/{name}", (1980, 1, 1, 0, 0, 0))
    info.file_size = size
    wide = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0
    bare = file.tell() + 30 + len(info.filename) + wide + 4
    padding = -bare % _ALIGNMENT
    info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
    return info
