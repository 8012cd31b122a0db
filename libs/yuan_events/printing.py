"""Text on a terminal.

A model's, or a file's name, may hold any character, and some of them steer terminals.
"""

_CONTROLS = {code: None for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}
# How Python writes them; of a byte that is no UTF-8 in a file's name the byte (PEP 383).
_ESCAPES = {
    **{code: repr(chr(code))[1:-1] for code in (*range(32), 127, *range(128, 160), *range(0xD800, 0xE000))},
    **{0xDC00 + byte: f"\\x{byte:02x}" for byte in range(128, 256)},
}


def without_controls(text: str) -> str:
    """Returns a text without the characters that move a terminal's cursor or change its state."""
    return text.translate(_CONTROLS)


def escaped(text: str) -> str:
    """Returns a text in one line that can be printed and written: what cannot is an escape, as of a line end."""
    return text if text.isprintable() else text.translate(_ESCAPES)


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
