"""Text in columns, the same on a terminal, in a pipe and in a log: nothing is cut off or wrapped."""

from collections.abc import Sequence


def aligned(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ("seconds",)
) -> list[str]:
    """Returns one line a row, its columns as wide as their longest entry.

    Args:
        headings: first line; empty: none.
        rows: entries as text, one for every heading.
        right: headings of the columns that stand at their right edge.
    """
    lines = [list(headings), *map(list, rows)] if headings else [list(row) for row in rows]
    if not lines:
        return []
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    sides = [str.rjust if heading in right else str.ljust for heading in (headings or [""] * len(widths))]

    def padded(line: list[str]) -> str:
        cells = (side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True))
        return "  ".join(cells).rstrip()

    return [padded(line) for line in lines]
