"""The text column of `.parquet` files, a row group at a time: what a row group holds is what is in memory at once."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as arrow_parquet

from yuan_corpus.errors import TextError
from yuan_corpus.sources import Source, open_source, read_error


def row_groups(path: Source, text_field: str) -> list[tuple[int, int]]:
    """Returns the first row of each row group and the one after its last.

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
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise TextError(f"{path}: its column {text_field!r} is of {kind}, not of text (inputs.text_field)")
            bounds = [0]
            for group in range(file.num_row_groups):
                bounds.append(bounds[-1] + file.metadata.row_group(group).num_rows)
            return [pair for pair in itertools.pairwise(bounds) if pair[0] < pair[1]]
    except arrow.ArrowException as error:
        raise TextError(f"{path}: no Parquet file ({_first_line(error)}); mend or exclude it") from None
    except OSError as error:
        raise read_error(path, error) from None


def read_rows(path: Source, text_field: str, start: int, stop: int) -> Iterator[str | TextError]:
    """Yields the texts of one row group, or an error in the place of what cannot be read; null is empty text."""
    if start == stop:
        return
    try:
        with open_source(path) as raw, arrow_parquet.ParquetFile(raw) as file:
            row = 0
            for group in range(file.num_row_groups):
                if row == start:
                    column: Any = file.read_row_group(group, columns=[text_field]).column(text_field)
                    break
                row += file.metadata.row_group(group).num_rows
            else:
                yield TextError(f"{path}: has changed since it was first looked at (no row group at row {start})")
                return
    except (arrow.ArrowException, OSError) as error:
        yield TextError(f"{path}: rows {start} to {stop - 1} cannot be read ({_first_line(error)}); mend or exclude it")
        return
    for number, value in enumerate(column):
        try:
            text = value.as_py() or ""
        except UnicodeDecodeError as error:
            yield TextError(f"{path}: row {start + number} is not UTF-8 at its byte {error.start}")
            continue
        yield TextError(f"{path}: row {start + number} holds a NUL character") if "\0" in text else text


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
