"""What a stage is."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Dropped:
    """The verdict that a document is left out. reason: a few words, the same for alike cases: it is counted by."""

    reason: str


@runtime_checkable
class Stage(Protocol):
    """Judges documents one at a time; it must give the same answer for the same text, whatever came before."""

    def clean(self, text: str) -> str | Dropped:
        """Returns the document, changed or as it was, or that it is left out."""
        ...


@runtime_checkable
class EditingStage(Protocol):
    """Changes documents by those before them in input order."""

    def sign(self, text: str) -> Any:
        """Returns what must be known of a document; runs in any process."""
        ...

    def edit(self, text: str, signature: Any, number: int) -> str | Dropped:
        """Returns the next document in order, changed or as it was, or that it is left out; number: from 0."""
        ...


@runtime_checkable
class OrderedStage(Protocol):
    """Judges documents by those before them in input order."""

    def sign(self, text: str) -> Any:
        """Returns what must be known of a document; runs in any process."""
        ...

    def admit(self, signature: Any, number: int) -> Dropped | None:
        """Takes the next document in order, or says why not; number: of the document, from 0."""
        ...
