"""Names of artifacts: `[kind/]name[@version]`, and what to say when there is none of that name."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from yuan_events import InputError
from yuan_manifest.rules import STORED_NAME, STORED_NAME_RULE
from yuan_manifest.values import shortened, shown

NAME_RULE = STORED_NAME_RULE
_VERSION = re.compile(r"[1-9][0-9]{0,8}")  # as in a manifest; neither int() nor a database takes any number of digits
_LONGEST_SHOWN = 150
_LETTERS_A_SLIP = 3
"""Letters of a name for each slip that makes it another."""
"""Characters of a reference that a message has; a right one is shorter."""

LATEST = "latest"


class ArtifactKind(StrEnum):
    """What an artifact is."""

    tokenizer = "tokenizer"
    dataset = "dataset"
    model = "model"
    report = "report"
    requests = "requests"


class ArtifactNotFound(InputError):
    """No artifact has that name; the message has the nearest ones and the command that lists them.

    Attributes:
        kind: the kind that was looked for, `artifact` where any would have done.
        reference: what was looked for.
    """

    def __init__(self, message: str, kind: str = "artifact", reference: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.reference = reference


@dataclass(frozen=True)
class Reference:
    """A reference to an artifact.

    Attributes:
        name: its name.
        kind: its kind, or None where the text does not say it.
        version: its version, or None for the newest.
    """

    name: str
    kind: ArtifactKind | None = None
    version: int | None = None

    @classmethod
    def parse(cls, text: str, kind: str | None = None) -> "Reference":
        """Reads `[kind/]name[@version|@latest]`.

        Args:
            text: the reference.
            kind: the kind that is wanted where it stands; None: any.

        Raises:
            InputError: if it is not such a reference, or of another kind than wanted.
        """
        told = f"artifact {shortened(text, _LONGEST_SHOWN)}"
        rest, _, version = text.partition("@")
        given, slash, name = rest.rpartition("/")
        if slash and given not in ArtifactKind.__members__:
            raise InputError(f"{told}: no kind {shown(given)}; expected {_kinds()}{_did_you_mean(given)}")
        if given and kind is not None and given != kind:
            raise InputError(f"{told}: a {kind} is wanted here, not a {given}")
        check_name(name, text)
        number = None
        if version and version != LATEST:
            if not _VERSION.fullmatch(version):
                raise InputError(f"{told}: version {shown(version)} is not a number from 1 to 999999999 or `latest`")
            number = int(version)
        elif not version and text.endswith("@"):
            raise InputError(f"{told}: a version must follow the @")
        chosen = given or kind
        return cls(name, ArtifactKind(chosen) if chosen else None, number)

    def __str__(self) -> str:
        kind = f"{self.kind}/" if self.kind else ""
        return f"{kind}{self.name}" + (f"@{self.version}" if self.version else "")


def is_name(name: str) -> bool:
    """Returns whether a name can be an artifact's, see `NAME_RULE`."""
    return STORED_NAME.fullmatch(name) is not None


def check_name(name: str, text: str | None = None) -> None:
    """Checks that a name can be an artifact's.

    Raises:
        InputError: if it cannot.
    """
    if not is_name(name):
        told = shortened(text or name, _LONGEST_SHOWN)
        raise InputError(f"artifact {told}: {shown(name)} cannot be a name; use {NAME_RULE}")


def not_found(reference: Reference, published: Iterable[tuple[str, str, int]]) -> ArtifactNotFound:
    """Returns the error for a reference that leads nowhere.

    Args:
        reference: what was looked for.
        published: kind, name and version of all artifacts.
    """
    text = _what_is_there(reference, list(published))
    return ArtifactNotFound(f"artifact {reference} does not exist{text}", reference.kind or "artifact", str(reference))


def _what_is_there(reference: Reference, everything: Sequence[tuple[str, str, int]]) -> str:
    """Returns the rest of the message: the nearest that there is, and the command that lists it."""
    kind = reference.kind
    listing = f"`yuan artifacts {kind}`" if kind else "`yuan artifacts`"
    versions = sorted({v for k, n, v in everything if n == reference.name and k == (kind or k)})
    if versions:
        have = f"is version {versions[0]}" if len(versions) == 1 else f"are versions {_ranges(versions)}"
        return f"; there {have}; {listing} lists them"
    names = sorted({n for k, n, _ in everything if k == (kind or k)})
    if near := _nearest(reference.name, names):
        return f"; did you mean {' or '.join(near)}? {listing} lists them"
    if kinds := sorted({k for k, n, _ in everything if n == reference.name}):
        return f", but a {' and a '.join(kinds)} of that name does; see {listing}"
    if names:
        return f"; {listing} lists those that do"
    what = f"no {kind}" if kind else "no artifact"
    return f"; {what} has been made in this home yet"


def _nearest(name: str, names: Iterable[str]) -> list[str]:
    """Returns up to three names: those that go on as this one begins, or few slips away; the nearest first."""
    found = [
        (slips, other)
        for other in names
        if (slips := _slips(name, other)) <= max(1, min(len(name), len(other)) // _LETTERS_A_SLIP)
        or (len(name) >= _LETTERS_A_SLIP and other.startswith(name))
    ]
    return [other for _, other in sorted(found)[:3]]


def _slips(one: str, other: str) -> int:
    """Returns how many letters must be put in, left out, changed, or swapped with the next (edit distance)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                least = min(least, older[j - 2] + 1)
            row.append(least)
    return row[-1]


def _kinds() -> str:
    return ", ".join(ArtifactKind)


def _did_you_mean(kind: str) -> str:
    near = difflib.get_close_matches(kind, list(ArtifactKind), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _ranges(numbers: list[int]) -> str:
    """Returns `1-3, 7` for [1, 2, 3, 7]."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
