"""Plain values as people read them."""

import json
from typing import Any

_LONGEST = 100


def short_value(value: Any) -> str:
    """Returns a JSON-able value on at most a hundred characters, numbers to six digits."""
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
