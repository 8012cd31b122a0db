"""What a check found, and how an error of the product becomes a finding."""

from dataclasses import dataclass
from enum import StrEnum

from yuan_events import YuanError, one_line


class Level(StrEnum):
    """How much a finding matters. note: works, but one may want to know; wrong: something will not work."""

    ok = "ok"
    note = "note"
    wrong = "wrong"


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        check: what was looked at: `token`, `trainer server`.
        level: how it stands.
        text: what was found.
        mend: what to do about it; empty where nothing is to be done.
    """

    check: str
    level: Level
    text: str
    mend: str = ""


def ok(check: str, text: str) -> Finding:
    """Returns a finding that all is well."""
    return Finding(check, Level.ok, text)


def note(check: str, text: str, mend: str = "") -> Finding:
    """Returns a finding that nothing fails by."""
    return Finding(check, Level.note, text, mend)


def wrong(check: str, text: str, mend: str) -> Finding:
    """Returns a finding of something that does not work."""
    return Finding(check, Level.wrong, text, mend)


def refused(check: str, error: YuanError) -> Finding:
    """Returns an error of the product as a finding: its line ends with the mend, behind a semicolon."""
    text, semicolon, mend = one_line(error).rpartition("; ")
    return Finding(check, Level.wrong, text if semicolon else mend, mend if semicolon else "")


def reason(error: OSError) -> str:
    """Returns the system's words for an error."""
    return (error.strerror or str(error)).lower()
