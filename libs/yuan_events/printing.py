"""Text on a terminal.

A model's, or a file's name, may hold any character, and some of them steer terminals.
"""

_CONTROLS = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def without_controls(text: str) -> str:
    """Returns a text without the characters that move a terminal's cursor or change its state."""
    return text.translate(_CONTROLS)


def counted(count: int, noun: str) -> str:
    """Returns `1 file`, `2,000 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """Returns a time for a person: `48 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
