"""The text column of `.parquet` files, a row group at a time, and a large one in batches of rows.

A batch is what is in memory at once: many writers make one row group of a million rows.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as arrow_parquet

from yuan_corpus.errors import TextError
from yuan_corpus.sources import Source, open_source, read_error

_BUFFER_BYTES = 1 << 20
"""Read of a column at once; without it all of a row group's is."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that are stored together. start, stop: of the file's rows; size: bytes of their texts, uncompressed."""

    start: int
    stop: int
    size: int


def row_groups(path: Source, text_field: str) -> list[RowGroup]:
    """Returns the row groups that have rows.

    Raises:
        TextError: if it is no Parquet file or has no such column of text.
    """
    try:
        with open_source(path) as raw, arrow_parquet.ParquetFile(raw) as file:
            schema = file.schema_arrow
            if text_field not in schema.names:
                found = ", ".join(schema.names[:8])
                raise TextError(f"{path}: has no column {text_field!r}; it has {found} (inputs.text_field)")
            kind = schema.field(text_field).type
            if not _is_text(kind.value_type if arrow.types.is_dictionary(kind) else kind):
                raise TextError(f"{path}: its column {text_field!r} is of {kind}, not of text (inputs.text_field)")
            groups: list[RowGroup] = []
            start = 0
            for number in range(file.num_row_groups):
                about = file.metadata.row_group(number)
                columns = (about.column(index) for index in range(about.num_columns))
                size = sum(one.total_uncompressed_size for one in columns if one.path_in_schema == text_field)
                groups.append(RowGroup(start, start + about.num_rows, size))
                start += about.num_rows
            return [group for group in groups if group.start < group.stop]
    except arrow.ArrowException as error:
        raise TextError(f"{path}: no Parquet file ({_first_line(error)}); mend or exclude it") from None
    except OSError as error:
        raise read_error(path, error) from None


def _is_text(kind: Any) -> bool:
    return any(test(kind) for test in (arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_string_view))


def read_rows(path: Source, text_field: str, start: int, stop: int) -> Iterator[str | TextError]:
    """Yields the texts of one row group, or an error in the place of what cannot be read; null is empty text."""
    if start == stop:
        return
    try:
        batches = list(_batches(path, text_field, start, stop - start))
    except TextError as error:
        yield error
        return
    for batch in batches:
        yield from _texts(path, start, batch)
        start += len(batch)


def batches_of_rows(path: Source, text_field: str, start: int, stop: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yields one row group in batches of about so many bytes, each with its first row, for `read_batch`.

    Raises:
        TextError: if it cannot be read, once what can be has been yielded.
    """
    whole = next((group.size for group in row_groups(path, text_field) if group.start == start), 0)
    rows = max(1, (stop - start) * size // max(1, whole))
    for batch in _batches(path, text_field, start, rows):
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield start, sink.getvalue().to_pybytes()
        start += len(batch)


def read_records(path: Source) -> Iterator[Any]:
    """Yields all rows of a file, with all columns, as Python's values.

    Raises:
        TextError: if it is no Parquet file.
    """
    try:
        with open_source(path) as raw, arrow_parquet.ParquetFile(raw) as file:
            for batch in file.iter_batches(1000):
                yield from batch.to_pylist()
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path}: no Parquet file ({_first_line(error)}); mend or exclude it") from None


def read_batch(path: Source, data: bytes, start: int) -> Iterator[str | TextError]:
    """Yields the texts of what `batches_of_rows` gave, as `read_rows` does."""
    with arrow.ipc.open_stream(data) as stream:
        for batch in stream:
            yield from _texts(path, start, batch)


def _batches(path: Source, text_field: str, start: int, rows: int) -> Iterator[Any]:
    """Yields the row group that begins at a row, so many rows at a time, with the one column.

    Raises:
        TextError: if it cannot be read.
    """
    first = row = start
    try:
        with open_source(path) as raw, arrow_parquet.ParquetFile(raw, buffer_size=_BUFFER_BYTES) as file:
            row = 0
            for group in range(file.num_row_groups):
                if row == first:
                    break
                row += file.metadata.row_group(group).num_rows
            else:
                raise TextError(f"{path}: has changed since it was first looked at (no row group at row {first})")
            for batch in file.iter_batches(rows, row_groups=[group], columns=[text_field], use_threads=False):
                yield batch
                row += len(batch)
    except (arrow.ArrowException, OSError) as error:
        raise TextError(
            f"{path}: rows cannot be read from row {row} on ({_first_line(error)}); mend or exclude it"
        ) from None


def _texts(path: Source, start: int, batch: Any) -> Iterator[str | TextError]:
    for number, value in enumerate(batch.column(0)):
        try:
            text = value.as_py() or ""
        except UnicodeDecodeError as error:
            yield TextError(f"{path}: row {start + number} is not UTF-8 at its byte {error.start}")
            continue
        yield TextError(f"{path}: row {start + number} holds a NUL character") if "\0" in text else text


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
