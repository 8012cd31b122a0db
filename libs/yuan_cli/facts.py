"""Facts about an artifact or a job as rows of label and value."""

from collections.abc import Iterable

from yuan_jobs.values import short_value

__all__ = ["labelled", "short_value"]


def labelled(label: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """Returns a row for each value, the label before the first alone."""
    return [(label if number == 0 else "", value) for number, value in enumerate(values)]
