"""Files to documents, in slices that any process can read on its own.

What a document is follows from a file's name: a line of `.txt`, by the original's per-line rules (YUAN_FACTS B1); a
record's text field in `.jsonl`, `.csv` and `.parquet`; the whole of any other file. Each may also be `.gz` or `.zst`.
What is no text is reported with its place and never repaired in silence.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import IO, Any

from yuan_corpus import encodings
from yuan_corpus.errors import TextError
from yuan_corpus.sources import (
    BrokenStream,
    Source,
    compression_of,
    decompressed,
    format_suffix,
    open_source,
    read_error,
    size_of,
)

SLICE_BYTES = 1 << 20
"""Text that is read, cut and handed on at once; what bounds memory, but for files, lines and row groups longer."""

LARGE_ROW_GROUP = 16 << 20
"""Bytes of text from which on a row group of `.parquet` is read in parts."""

LONGEST_DOCUMENT = 64 << 20
"""Bytes of a line, a record or a whole file: more is an error, for one document must fit into memory several times."""

MOST_NAMED = 20
MOST_NAMED_OF_FILE = 3
"""Places of broken records that a log keeps, in all and of a file; more are only counted."""

_MEND_RECORD = "mend it, or leave out what is broken with inputs.on_error: skip"
_NEWLINE = b"\n"
_QUOTED = re.compile(rb'(?<![^,\n])"[^"]*(?:""[^"]*)*("?)')
"""A field of CSV in quotes (RFC 4180), which are none in the middle of a field, as in `3" pipe`; group 1: its end."""
_MARKS_OF_LINES = ("\r", "<n>", "\u2583", "[SEP]")
"""What a line has in it where `clean_line` does more than strip it."""


class DocumentMode(StrEnum):
    """What one document is. AUTO: what the file's name tells."""

    AUTO = "auto"
    LINES = "lines"
    FILES = "files"


class Format(StrEnum):
    """How documents lie in a file."""

    LINES = "lines"
    FILE = "file"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_FORMATS = {".txt": Format.LINES, ".jsonl": Format.JSONL, ".csv": Format.CSV, ".parquet": Format.PARQUET}


@dataclass(frozen=True)
class Reading:
    """How text is read.

    Attributes:
        mode: what a document is.
        text_field: of records, holds their text.
        encoding: `utf-8`, another that Python knows, or `auto`: detected for each file.
        skip_broken: what cannot be read is left out and counted, else it is an error.
    """

    mode: DocumentMode = DocumentMode.AUTO
    text_field: str = "text"
    encoding: str = encodings.UTF8
    skip_broken: bool = False


@dataclass
class SkipLog:
    """What was left out because it is broken.

    Attributes:
        count: records or files.
        first: where the first of them are, and why; of a file no more than a few, so that others are named, too.
    """

    count: int = 0
    first: list[str] = field(default_factory=list[str])

    def add(self, other: "SkipLog") -> None:
        """Appends what was skipped after this."""
        self.count += other.count
        of_file = Counter(_file_of(place) for place in self.first)
        for place in other.first:
            if len(self.first) < MOST_NAMED and of_file[_file_of(place)] < MOST_NAMED_OF_FILE:
                self.first.append(place)
                of_file[_file_of(place)] += 1

    def note(self, error: TextError) -> None:
        """Counts one broken record."""
        self.add(SkipLog(1, [str(error)]))


def _file_of(place: str) -> str:
    return place.partition(": ")[0]


@dataclass(frozen=True)
class TextSlice:
    """A part of a file.

    Attributes:
        path: the file.
        format: how documents lie in it.
        start: where it begins: a byte of the text; a row of `.parquet`, whose slices are row groups.
        stop: where it ends; the last line may reach beyond.
        size: bytes of the stored file that it stands for, about.
        encoding: of the text; `auto`: is to be detected from it.
        streamed: a file that can only be read from its beginning; `expand` makes slices with data of it.
        data: its bytes, where they have been read.
        first_line: of `.csv` data, counted from 1.
        header: of `.csv` data, the file's first record.
        broken: why the file cannot be read from here on.
    """

    path: Source
    format: Format
    start: int
    stop: int
    size: int
    encoding: str = encodings.UTF8
    streamed: bool = False
    data: bytes | None = None
    first_line: int = 1
    header: bytes = b""
    broken: str | None = None

    @property
    def lines(self) -> bool:
        """Whether a document is a line or a record of one."""
        return self.format is not Format.FILE


def slice_files(paths: Sequence[Source], reading: Reading | DocumentMode = DocumentMode.AUTO) -> list[TextSlice]:
    """Returns all text of some files as slices, in order; it depends on the files only.

    Raises:
        TextError: if a file is missing, unreadable, a folder, or all are empty.
    """
    if isinstance(reading, DocumentMode):
        reading = Reading(reading)
    slices = [part for path in paths for part in _slices_of(path, reading)]
    if not any(part.size or part.broken for part in slices):
        named = f"{paths[0]} is" if len(paths) == 1 else f"all {len(paths)} files are"
        raise TextError(f"{named} empty; there is no text in it" if paths else "no files, so no text")
    return slices


def _slices_of(path: Source, reading: Reading) -> Iterator[TextSlice]:
    layout = _format_of(path.name, reading.mode)
    try:
        size = size_of(path)
    except TextError as error:
        if not reading.skip_broken:
            raise
        yield TextSlice(path, layout, 0, 0, 0, reading.encoding, broken=str(error))
        return
    whole = TextSlice(path, layout, 0, size, size, reading.encoding)
    if layout is Format.FILE or not size:
        yield whole
        return
    try:
        if layout is Format.PARQUET:
            from yuan_corpus.parquet import row_groups  # noqa: PLC0415 - services that read no text do without pyarrow

            groups = row_groups(path, reading.text_field)
            rows = groups[-1].stop if groups else 0
            for group in groups:
                bytes_of_rows = size * group.stop // rows - size * group.start // rows
                large = group.size > LARGE_ROW_GROUP
                yield replace(whole, start=group.start, stop=group.stop, size=bytes_of_rows, streamed=large)
            return
        if compression_of(path.name) or layout is Format.CSV:
            yield replace(whole, streamed=True)
            return
        encoding = encodings.encoding_of(_head(path), reading.encoding, path)
    except TextError as error:
        if not reading.skip_broken:
            raise
        yield replace(whole, broken=str(error))
        return
    if encodings.is_wide(encoding):
        yield replace(whole, streamed=True, encoding=encoding)
        return
    for start in range(0, size, SLICE_BYTES):
        stop = min(size, start + SLICE_BYTES)
        yield replace(whole, start=start, stop=stop, size=stop - start, encoding=encoding)


def _format_of(name: str, mode: DocumentMode) -> Format:
    if mode is DocumentMode.AUTO:
        return _FORMATS.get(format_suffix(name), Format.FILE)
    return Format.LINES if mode is DocumentMode.LINES else Format.FILE


def _head(path: Source) -> bytes:
    try:
        with open_source(path) as file:
            return file.read(encodings.SAMPLE_BYTES)
    except OSError as error:
        raise read_error(path, error) from None


# --- files that are read from their beginning ---------------------------------------------------------------------


def expand(slices: Iterable[TextSlice], reading: Reading) -> Iterator[TextSlice]:
    """Yields slices, those of a file that can only be read from its beginning with their data.

    Raises:
        TextError: if such a file cannot be read and what is broken is not to be skipped.
    """
    for part in slices:
        if part.streamed:
            yield from _row_batches(part, reading) if part.format is Format.PARQUET else _stream(part, reading)
        else:
            yield part


def _row_batches(part: TextSlice, reading: Reading) -> Iterator[TextSlice]:
    """Cuts a row group into slices of about SLICE_BYTES of text."""
    from yuan_corpus.parquet import batches_of_rows  # noqa: PLC0415

    whole = replace(part, streamed=False)
    rows, done = part.stop - part.start, 0
    position = part.start
    waiting: tuple[int, bytes] | None = None
    try:
        for start, data in batches_of_rows(part.path, reading.text_field, part.start, part.stop, SLICE_BYTES):
            if waiting is not None:
                stored = part.size * (start - part.start) // rows
                yield replace(whole, start=position, stop=start, size=stored - done, data=waiting[1])
                position, done = start, stored
            waiting = start, data
    except TextError as error:
        if not reading.skip_broken:
            raise
        whole = replace(whole, broken=str(error))
    yield replace(whole, start=position, size=part.size - done, data=b"" if waiting is None else waiting[1])


def _stream(part: TextSlice, reading: Reading) -> Iterator[TextSlice]:
    """Cuts a file into slices of about SLICE_BYTES that end with a record."""
    whole, done, position, line = replace(part, streamed=False), 0, 0, 1
    rest = b""
    header = b""
    dropping = False  # a record that is too long, up to its end
    try:
        with open_source(part.path) as raw:
            encoding, pieces = _plain_pieces(part, raw)
            whole = replace(whole, encoding=encoding)
            for piece in _gathered(pieces):
                if dropping:
                    end = piece.find(_NEWLINE) + 1
                    position, line, dropping = position + (end or len(piece)), line + bool(end), not end
                    rest = piece[end:] if end else b""
                else:
                    rest += piece
                if part.format is Format.CSV and not header:
                    header = rest[: _record_end(rest, True)]
                end = _last_record_end(rest, part.format)
                if not end and len(rest) <= LONGEST_DOCUMENT:
                    continue  # a record longer than a slice
                if not end:
                    place = f"line {line}" if part.format is Format.CSV else f"byte {position}"
                    error = _too_long(part.path, f"the record at {place}")
                    if not reading.skip_broken or part.format is Format.CSV:
                        raise error
                    yield replace(whole, start=position, stop=position, size=0, data=b"", broken=str(error))
                    position, rest, dropping = position + len(rest), b"", True
                    continue
                stored = min(raw.tell(), part.size)
                yield replace(
                    whole, start=position, stop=position + end, size=stored - done, data=rest[:end],
                    first_line=line, header=header if position else b"",
                )  # fmt: skip
                position, done, line = position + end, stored, line + rest.count(_NEWLINE, 0, end)
                rest = rest[end:]
    except (BrokenStream, OSError, TextError) as error:
        problem = _stream_error(part.path, error)
        if not reading.skip_broken:
            raise problem from None
        # The records before the damage are whole; the last, cut one goes with the rest of the file.
        rest = rest[: _last_record_end(rest, part.format)]
        known = encodings.UTF8 if whole.encoding == encodings.AUTO else whole.encoding
        whole = replace(whole, broken=str(problem), encoding=known)
    yield replace(
        whole, start=position, stop=position + len(rest), size=part.size - done, data=rest,
        first_line=line, header=header if position else b"",
    )  # fmt: skip


def _gathered(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yields bytes in pieces of about SLICE_BYTES."""
    waiting: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            waiting.append(piece)
            size += len(piece)
            if size >= SLICE_BYTES:
                yield b"".join(waiting)
                waiting, size = [], 0
    except (BrokenStream, OSError, TextError):
        yield b"".join(waiting)  # what stands before the damage is whole
        raise
    yield b"".join(waiting)


def _stream_error(path: Source, error: Exception) -> TextError:
    if isinstance(error, TextError):
        return error
    if isinstance(error, BrokenStream):
        return TextError(f"{path}: {error.args[0]} at stored byte {error.args[1]}; mend or exclude it")
    assert isinstance(error, OSError)  # noqa: S101
    return read_error(path, error)


def _plain_pieces(part: TextSlice, raw: IO[bytes]) -> tuple[str, Iterator[bytes]]:
    """Returns the encoding and the bytes of a file, decompressed, wide encodings turned into UTF-8."""
    compression = compression_of(part.path.name)
    pieces = decompressed(raw, compression) if compression else iter(lambda: raw.read(1 << 16), b"")
    first, pieces = _with_sample(pieces, encodings.SAMPLE_BYTES if part.encoding == encodings.AUTO else 0)
    encoding = encodings.encoding_of(first[: encodings.SAMPLE_BYTES], part.encoding, part.path)
    chunks = _after(first, pieces)
    return (
        (encodings.UTF8, _narrowed(chunks, encoding, part.path)) if encodings.is_wide(encoding) else (encoding, chunks)
    )


def _with_sample(pieces: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """Returns so many of the first bytes or more, and what comes behind them; pieces may be of any size."""
    taken: list[bytes] = []
    missing = size
    try:
        while missing > 0 and (piece := next(pieces, None)) is not None:
            taken.append(piece)
            missing -= len(piece)
    except (BrokenStream, OSError) as error:  # once what stands before it has been read
        return b"".join(taken), _failing(error)
    return b"".join(taken), pieces


def _failing(error: Exception) -> Iterator[bytes]:
    yield b""
    raise error


def _after(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from pieces


def _narrowed(chunks: Iterator[bytes], encoding: str, path: Source) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    position = 0
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
            position += len(chunk)
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:  # a lone half of a surrogate pair is an error on the way out
        raise TextError(f"{path}: not {encoding} from byte {position} on; mend or exclude it") from None


def _last_record_end(data: bytes, layout: Format) -> int:
    """Returns where the last whole record of some bytes, which begin with one, ends; 0 if there is none."""
    end = data.rfind(_NEWLINE) + 1
    if layout is Format.CSV and b'"' in data:
        for field in reversed(list(_QUOTED.finditer(data))):
            if field.group(1) and field.end() < end:
                break
            if field.start() < end:  # a line end within quotes is text
                end = data.rfind(_NEWLINE, 0, field.start()) + 1
    return end


def _record_end(data: bytes, quoted: bool, start: int = 0) -> int:
    """Returns where the record that begins at a place of some bytes ends."""
    end = data.find(_NEWLINE, start) + 1 or len(data)
    if quoted and data.find(b'"', start, end) >= 0:
        for field in _QUOTED.finditer(data, start):
            if field.start() >= end:
                break
            if not field.group(1):
                return len(data)
            if field.end() >= end:
                end = data.find(_NEWLINE, field.end()) + 1 or len(data)
    return end


# --- slices to documents -------------------------------------------------------------------------------------------


def read_documents(part: TextSlice, reading: Reading | None = None, skipped: SkipLog | None = None) -> Iterator[str]:
    """Yields the documents of a slice; empty ones (only whitespace) are left out.

    Args:
        part: not a streamed one; see `expand`.
        reading: how; None: as it is by default.
        skipped: counts what is broken, if that is to be skipped.

    Raises:
        TextError: if the file is unreadable, a byte has no meaning in its encoding or is NUL, or a record is none,
            with file and byte (line of `.csv`, row of `.parquet`).
    """
    reading = reading or Reading()
    log = skipped or SkipLog()
    documents = _documents_of(part, reading, log)
    if part.format is Format.LINES:
        # They have been judged by the original's rule, for which spaces between newlines are text.
        yield from documents
    else:
        yield from (document for document in documents if document.strip())
    if part.broken is not None:
        log.note(TextError(part.broken))


def _documents_of(part: TextSlice, reading: Reading, log: SkipLog) -> Iterator[str]:
    if part.broken is not None and part.data is None:
        return
    if part.format is Format.PARQUET:
        from yuan_corpus.parquet import read_batch, read_rows  # noqa: PLC0415

        rows = (
            read_rows(part.path, reading.text_field, part.start, part.stop)
            if part.data is None
            else read_batch(part.path, part.data, part.start)
            if part.data
            else iter(())
        )
        yield from _kept(part, rows, reading, log)
        return
    try:
        pieces = _decoded(part, reading, log)
    except TextError as error:
        if not reading.skip_broken:
            raise
        log.note(error)
        return
    for position, text in pieces:
        if part.format is Format.LINES and len(text) <= LONGEST_DOCUMENT:
            yield from _lines(text)  # none of which is too long or broken
        else:
            yield from _kept(part, _records(part, position, text, reading), reading, log)


def _decoded(part: TextSlice, reading: Reading, log: SkipLog) -> list[tuple[int, str]]:
    """Returns the text of a slice with its byte: in one piece, or where some is broken and to be skipped, by records.

    Raises:
        TextError: if it cannot be read; if some is broken that is not to be skipped, or is no part of a file.
    """
    try:
        start, data = (part.start, part.data) if part.data is not None else _read(part)
    except _LongLine as problem:
        error, start, data = problem.args
        if not reading.skip_broken:
            raise error from None
        log.note(error)
    encoding = part.encoding
    if not part.lines:
        encoding = encodings.encoding_of(data[: encodings.SAMPLE_BYTES], encoding, part.path)
    try:
        return [(start, encodings.decode(part.path, start, data, encoding))]
    except encodings.UndecodableError:
        if not reading.skip_broken or not part.lines:
            raise
    pieces = list(_decodable_records(part, start, data, encoding, log))
    if part.format is Format.CSV:  # whose records need their header
        return [(start, "".join(text for _, text in pieces))]
    return pieces


def _kept(part: TextSlice, records: Iterator[str | TextError], reading: Reading, log: SkipLog) -> Iterator[str]:
    for text in records:
        # Of what came decompressed or out of a row group the length is seen only here.
        record = (
            text if isinstance(text, TextError) or len(text) <= LONGEST_DOCUMENT else _too_long(part.path, "a document")
        )
        if isinstance(record, str):
            yield record
        elif not reading.skip_broken:
            raise record if "inputs." in str(record) else TextError(f"{record}; {_MEND_RECORD}")
        else:
            log.note(record)


def _decodable_records(
    part: TextSlice, start: int, data: bytes, encoding: str, log: SkipLog
) -> Iterator[tuple[int, str]]:
    """Yields the records of a slice that are text, each with its byte."""
    position = 0
    while position < len(data):
        end = _record_end(data, part.format is Format.CSV, position)
        try:
            yield start + position, encodings.decode(part.path, start + position, data[position:end], encoding)
        except TextError as error:
            log.note(error)
        position = end


def _records(part: TextSlice, start: int, text: str, reading: Reading) -> Iterator[str | TextError]:
    """Yields the documents of decoded text, and errors in the place of those that are none."""
    if part.format is Format.FILE:
        yield text
    elif part.format is Format.LINES:
        yield from _lines(text)
    elif part.format is Format.JSONL:
        yield from _json_records(part, start, text, reading.text_field)
    else:
        yield from _csv_records(part, text, reading.text_field)


def _lines(text: str) -> list[str] | Iterator[str]:
    if any(mark in text for mark in _MARKS_OF_LINES):
        # As a file opened for text: \r\n and a lone \r end lines too.
        return (document for line in io.StringIO(text, newline=None) if (document := clean_line(line)))
    # The same, for text without any mark several times faster.
    return [document for line in text.split("\n") if (document := line.strip())]


def _json_records(part: TextSlice, start: int, text: str, text_field: str) -> Iterator[str | TextError]:
    position = 0
    for line in text.split("\n"):
        if line.strip():
            try:
                yield _field_of(json.loads(line), text_field)
            except (ValueError, RecursionError) as error:
                byte = start + len(text[:position].encode(part.encoding))
                yield TextError(f"{part.path}: the record at byte {byte} {_problem(error)}")
        position += len(line) + 1


def _field_of(record: Any, text_field: str) -> str:
    if not isinstance(record, dict):
        raise ValueError("is no object of fields")
    if text_field not in record:
        names = ", ".join(map(str, list(record)[:8]))  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError(f"has no field {text_field!r}; it has {names or 'none'} (inputs.text_field)")
    value: Any = record[text_field]  # pyright: ignore[reportUnknownVariableType]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"has no text in its field {text_field!r} (inputs.text_field)")
    # A lone half of a surrogate pair, which JSON can write as \ud800, is no character and has no UTF-8.
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("holds half of a surrogate pair")
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not JSON ({error.msg} at its character {error.pos})"
    return "is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _csv_records(part: TextSlice, text: str, text_field: str) -> Iterator[str | TextError]:
    if not text:
        return
    try:
        header = part.header.decode(part.encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        yield TextError(f"{part.path}: its first record, the header, is not {part.encoding} at byte {error.start}")
        return
    csv.field_size_limit(1 << 31)
    table = csv.reader(io.StringIO(header + text, newline=""), strict=True)
    before = header.count("\n")
    names: list[str] | None = None
    while True:
        line = part.first_line + table.line_num - before
        try:
            row = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            yield TextError(f"{part.path}: the record at line {line} is not CSV ({error})")
            continue
        if names is None:
            names = row
            if text_field not in names:
                found = ", ".join(names[:8]) or "none in its first record, which is empty"
                yield TextError(f"{part.path}: has no column {text_field!r}; it has {found} (inputs.text_field)")
                return
        elif row and len(row) != len(names):
            yield TextError(f"{part.path}: the record at line {line} has {len(row)} fields, not {len(names)}")
        elif row:
            yield row[names.index(text_field)]


def clean_line(line: str) -> str | None:
    """Returns the document that a line of a `.txt` file is, or None where it is none.

    `<n>` is a newline in it, and a leading one is dropped; `▃` is deleted; `[SEP]` becomes `<sep>`.
    """
    text = line.removeprefix("<n>").strip().replace("\r", "").replace("\n", "")
    text = text.replace("<n>", "\n").replace("\u2583", "").replace("[SEP]", "<sep>")
    return text if text.strip("\n") else None


class _LongLine(Exception):
    """A slice ends with a line that is too long. args: the error, where its first line begins, what is before."""


def _line(file: IO[bytes], most: int) -> bytes:
    """Reads to the end of a line, but not more than so many bytes, which fsspec's `readline` cannot be told."""
    line: list[bytes] = []
    while most and (block := file.read(min(most, 1 << 16))):
        end = block.find(_NEWLINE) + 1
        line.append(block[:end] if end else block)
        if end:
            file.seek(file.tell() - len(block) + end)
            break
        most -= len(block)
    return b"".join(line)


def _whole_file(part: TextSlice, file: IO[bytes]) -> bytes:
    compression = compression_of(part.path.name)
    pieces = decompressed(file, compression) if compression else iter(lambda: file.read(1 << 20), b"")
    data: list[bytes] = []
    size = 0
    for piece in pieces:
        data.append(piece)
        size += len(piece)
        if size > LONGEST_DOCUMENT:
            raise _too_long(part.path, "this file, which is one document,")
    return b"".join(data)


def _too_long(where: object, what: str) -> TextError:
    return TextError(
        f"{where}: {what} is longer than {LONGEST_DOCUMENT >> 20} MiB, the most that a document may have; cut it, or "
        "leave it out with inputs.exclude"
    )


def _read(part: TextSlice) -> tuple[int, bytes]:
    """Returns the byte where a slice's first line begins, and its bytes to the end of its last line.

    Raises:
        TextError: if it cannot be read; if its last line, or the whole file that it is, is too long.
        _LongLine: the same, for what is to be skipped, with what comes before.
    """
    try:
        with open_source(part.path) as file:
            if not part.lines:
                return 0, _whole_file(part, file)
            start = 0
            if part.start:
                # A line that begins right at the slice's start belongs to it, so look at the byte before. A line that
                # goes on beyond the slice is another one's affair.
                file.seek(part.start - 1)
                if not _line(file, part.stop - part.start + 1).endswith(_NEWLINE):
                    return part.stop, b""
                start = file.tell()
            data = file.read(max(0, part.stop - start))
            if data and not data.endswith(_NEWLINE):
                last = len(data) - data.rfind(_NEWLINE) - 1
                rest = _line(file, LONGEST_DOCUMENT - last + 1)
                if last + len(rest) > LONGEST_DOCUMENT and not rest.endswith(_NEWLINE):
                    error = _too_long(part.path, f"the line at byte {start + len(data) - last}")
                    raise _LongLine(error, start, data[: len(data) - last])
                data += rest
            return start, data
    except (OSError, BrokenStream) as error:
        raise _stream_error(part.path, error) from None
