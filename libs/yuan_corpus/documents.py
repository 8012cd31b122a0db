"""Files to documents, in slices that any process can read on its own.

A `.txt` file holds one document a line, by the original's per-line rules (YUAN_FACTS B1); every other file is one
document. Text is UTF-8, strictly: what is not is reported with its place and never repaired in silence.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from yuan_corpus.errors import TextError

SLICE_BYTES = 1 << 20
"""Text that is read, cut and handed on at once; what bounds memory, but for files and lines that are longer."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_GUESSES = (("utf-16", "UTF-16"), ("gb18030", "GB18030"), ("big5", "BIG5"), ("shift_jis", "SHIFT_JIS"))


class DocumentMode(StrEnum):
    """What one document is. AUTO: a line in `.txt` files, the file elsewhere."""

    AUTO = "auto"
    LINES = "lines"
    FILES = "files"


@dataclass(frozen=True)
class TextSlice:
    """A part of a file: whole, or the lines that begin from byte `start` on and before byte `stop`.

    Attributes:
        path: the file.
        lines: whether a document is a line.
        start: where it begins, 0 for whole files.
        stop: where it ends.
    """

    path: Path
    lines: bool
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Its bytes, about; the last line may reach beyond."""
        return self.stop - self.start


def slice_files(paths: Sequence[Path], mode: DocumentMode = DocumentMode.AUTO) -> list[TextSlice]:
    """Returns all text of some files as slices, in order; it depends on names and sizes only.

    Raises:
        TextError: if a file is missing, unreadable, a folder, or all are empty.
    """
    slices: list[TextSlice] = []
    for path in paths:
        lines = mode is DocumentMode.LINES or (mode is DocumentMode.AUTO and path.suffix.lower() == ".txt")
        size = _size_of(path)
        if not lines:
            slices.append(TextSlice(path, False, 0, size))
            continue
        starts = range(0, size, SLICE_BYTES)
        slices.extend(TextSlice(path, True, start, min(size, start + SLICE_BYTES)) for start in starts)
    if not sum(part.size for part in slices):
        named = f"{paths[0]} is" if len(paths) == 1 else f"all {len(paths)} files are"
        raise TextError(f"{named} empty; there is no text in it" if paths else "no files, so no text")
    return slices


def read_documents(part: TextSlice) -> Iterator[str]:
    """Yields the documents of a slice; empty ones (only whitespace) are left out.

    Raises:
        TextError: if the file is unreadable, not UTF-8, or holds a NUL byte, with file and byte offset.
    """
    start, data = _read(part)
    text = _decode(part.path, start, data)
    if not part.lines:
        if text.strip():
            yield text
        return
    # As a file opened for text: \r\n and a lone \r end lines too.
    for line in io.StringIO(text, newline=None):
        document = clean_line(line)
        if document is not None:
            yield document


def clean_line(line: str) -> str | None:
    """Returns the document that a line of a `.txt` file is, or None where it is none.

    `<n>` is a newline in it, and a leading one is dropped; `▃` is deleted; `[SEP]` becomes `<sep>`.
    """
    text = line.removeprefix("<n>").strip().replace("\r", "").replace("\n", "")
    text = text.replace("<n>", "\n").replace("\u2583", "").replace("[SEP]", "<sep>")
    return text if text.strip("\n") else None


def _size_of(path: Path) -> int:
    try:
        if path.is_dir():
            raise TextError(f"{path}: is a folder where a file is expected")
        return path.stat().st_size
    except FileNotFoundError:
        raise TextError(f"{path}: no such file") from None
    except OSError as error:
        raise TextError(f"{path}: cannot be looked at ({error.strerror})") from None


def _read(part: TextSlice) -> tuple[int, bytes]:
    """Returns the byte where a slice's first line begins, and its bytes to the end of its last line."""
    try:
        with part.path.open("rb") as file:
            if not part.lines:
                return 0, file.read()
            start = 0
            if part.start:
                # A line that begins right at the slice's start belongs to it, so look at the byte before.
                file.seek(part.start - 1)
                file.readline()
                start = file.tell()
            data = file.read(max(0, part.stop - start))
            if data and not data.endswith(b"\n"):
                data += file.readline()
            return start, data
    except OSError as error:
        raise TextError(f"{part.path}: cannot be read ({error.strerror}); mend that or exclude it") from None


def _decode(path: Path, start: int, data: bytes) -> str:
    nul = data.find(b"\x00")
    guess = _guess_encoding(data) if nul >= 0 else None
    if nul >= 0 and guess != "UTF-16":
        raise TextError(
            f"{path}: byte {start + nul} is NUL, so this is a binary file and no text; leave it out with inputs.exclude"
        )
    if start == 0 and data.startswith(_BYTE_ORDER_MARK):
        data = data[len(_BYTE_ORDER_MARK) :]
        start = len(_BYTE_ORDER_MARK)
    try:
        if guess is None:
            return data.decode("utf-8")
        position = 0
    except UnicodeDecodeError as error:
        position = error.start
        line_end = data.find(b"\n", position)
        guess = _guess_encoding(data[data.rfind(b"\n", 0, position) + 1 : line_end if line_end >= 0 else len(data)])
    mend = f"iconv -f {guess or 'ITS-ENCODING'} -t UTF-8"
    raise TextError(
        f"{path}: not UTF-8 at byte {start + position} (0x{data[position]:02X}); "
        f"convert it (`{mend}`) or leave it out with inputs.exclude"
    )


def _guess_encoding(data: bytes) -> str | None:
    """Returns iconv's name of an encoding that the bytes could be in."""
    for codec, name in _GUESSES:
        if codec == "utf-16" and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
            continue
        try:
            data.decode(codec)
        except UnicodeDecodeError:
            continue
        return name
    return None
