"""The layout of `.bin`/`.idx` pairs that Megatron calls "mmap" (YUAN_FACTS B2), as its reader and writer share it.

`.bin` holds the ids of all items back to back. `.idx` holds, little-endian: magic, u64 version 1, u8 dtype code, u64
number of items n, u64 length of the document array m, int32 lengths [n] in tokens, int64 byte offsets [n] into
`.bin`, int64 document array [m] (item index at each document's start, ending with n).
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPE_OF_CODE: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}
LONGEST_ITEM = np.iinfo(np.int32).max


def dtype_for_vocabulary(vocab_size: int) -> np.dtype[Any]:
    """Returns the dtype that ids are stored in: uint16 below 65,500 ids, else int32, as Megatron chooses."""
    return DTYPE_OF_CODE[8] if vocab_size < 65500 else DTYPE_OF_CODE[4]


def index_path(prefix: Path) -> Path:
    """Returns `PREFIX.idx`, whatever dots the prefix has."""
    return prefix.with_name(prefix.name + ".idx")


def data_path(prefix: Path) -> Path:
    """Returns `PREFIX.bin`, whatever dots the prefix has."""
    return prefix.with_name(prefix.name + ".bin")
