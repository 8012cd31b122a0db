"""Facts about an artifact or a job as rows of label and value."""

import json
from collections.abc import Iterable
from typing import Any

_LONGEST = 100


def labelled(label: str, values: Iterable[str]) -> list[tuple[str, str]]:
    """Returns a row for each value, the label before the first alone."""
    return [(label if number == 0 else "", value) for number, value in enumerate(values)]


def short_value(value: Any) -> str:
    """Returns a JSON-able value on at most a hundred characters, numbers to six digits."""
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
