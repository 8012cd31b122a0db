"""An artifact's lineage: all that it was made from and all that was made from it, and the places of a picture of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar


class Made(Protocol):
    """An artifact, as far as lineage is concerned."""

    @property
    def reference(self) -> str:
        """`kind/name@version`."""
        ...

    @property
    def made_from(self) -> Mapping[str, str]:
        """Artifacts by name of the input."""
        ...

    @property
    def used_by(self) -> Sequence[str]:
        """Artifacts that were made from it."""
        ...


_ViewT = TypeVar("_ViewT", bound=Made)


@dataclass(frozen=True)
class Lineage(Generic[_ViewT]):
    """An artifact with all it came from and all that came from it.

    Attributes:
        root: the artifact's reference.
        views: every artifact of the lineage, by reference.
    """

    root: str
    views: dict[str, _ViewT]

    def sources(self, reference: str) -> list[tuple[str, str]]:
        """Returns what an artifact was made from: the input's name and the artifact."""
        return sorted(self.views[reference].made_from.items())

    def uses(self, reference: str) -> list[str]:
        """Returns what was made from an artifact."""
        return list(self.views[reference].used_by)


def lineage_of(name: str, find: Callable[[str], _ViewT]) -> Lineage[_ViewT]:
    """Looks an artifact's whole lineage up.

    Args:
        name: `[kind/]name[@version]`.
        find: looks one artifact up.
    """
    root = find(name)
    views = {root.reference: root}
    steps: tuple[Callable[[_ViewT], list[str]], ...] = (
        lambda view: list(view.made_from.values()),
        lambda view: list(view.used_by),
    )
    for step in steps:
        waiting = step(root)
        seen: set[str] = set()
        while waiting:
            reference = waiting.pop()
            if reference not in seen:
                seen.add(reference)
                view = views.get(reference) or find(reference)
                views[reference] = view
                waiting.extend(step(view))
    return Lineage(root.reference, views)


def places(lineage: Lineage[Any]) -> dict[str, tuple[int, int]]:
    """Returns column and row of every artifact; a column is one more than the largest of its sources."""
    columns: dict[str, int] = {}

    def column_of(reference: str) -> int:
        if reference not in columns:
            known = [source for _, source in lineage.sources(reference) if source in lineage.views]
            columns[reference] = 1 + max(map(column_of, known), default=-1)
        return columns[reference]

    filled: dict[int, int] = {}
    found: dict[str, tuple[int, int]] = {}
    for reference in sorted(lineage.views, key=lambda one: (column_of(one), one)):
        column = columns[reference]
        found[reference] = (column, filled.get(column, 0))
        filled[column] = filled.get(column, 0) + 1
    return found
