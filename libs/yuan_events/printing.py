"""Text on a terminal: a model's, or a file's name, may hold any character, and some of them steer terminals."""

_CONTROLS = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def without_controls(text: str) -> str:
    """Returns a text without the characters that move a terminal's cursor or change its state."""
    return text.translate(_CONTROLS)
