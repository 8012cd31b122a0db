"""Where the values of a manifest stand, and the one-line error that says so.

Nothing here knows the schema or reads a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from yuan_events import InputError, one_line
from yuan_manifest.values import KeyPath, format_path, starts_with

OVERRIDE = "override"
"""What stands for the file name of a value that was given as `key=value`."""


@dataclass(frozen=True)
class Origin:
    """Where one value stands.

    Attributes:
        file: path as a user would write it, `override` for `key=value`, or what else the value comes from.
        line: counted from 1; None where there are no lines.
        text: the scalar as it was written; None for lists and sections.
        at: key path in that file of the tree that the value's path is relative to (a pipeline's step overrides).
    """

    file: str
    line: int | None = None
    text: str | None = None
    at: KeyPath = ()

    @property
    def is_override(self) -> bool:
        """Whether the value was given as `key=value`."""
        return self.file == OVERRIDE

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Origins:
    """Where every value of a manifest stands, through `extends` and overrides.

    Attributes:
        file: the manifest's own path, or what else it was made from.
        entries: origin by key path.
    """

    file: str = "built-in defaults"
    entries: Mapping[KeyPath, Origin] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, path: KeyPath) -> Origin:
        """Returns where the value stands, or else what is below it, or the nearest section around it, or the file."""
        for length in range(len(path), 0, -1):
            found = self.entries.get(path[:length])
            if found is not None:
                return found
            if length == len(path):
                # A section that only overrides made stands where its first value does.
                below = (origin for place, origin in self.entries.items() if starts_with(place, path))
                first = next(below, None)
                if first is not None:
                    return first
        return self.entries.get((), Origin(self.file))

    def under(self, prefix: KeyPath, *, moved: bool = False) -> "Origins":
        """Returns the origins of one subtree, its paths relative to it.

        Args:
            prefix: key path of the subtree.
            moved: whether errors shall name keys by their full path in this manifest.
        """
        entries = {
            path[len(prefix) :]: replace(origin, at=(*origin.at, *prefix)) if moved else origin
            for path, origin in self.entries.items()
            if starts_with(path, prefix)
        }
        return Origins(self.file, MappingProxyType(entries))


def attach(loaded: object, origins: Origins) -> None:
    """Keeps the origins beside a loaded object, outside of its fields: they are no part of what it says."""
    object.__setattr__(loaded, "_origins", origins)


def origins_of(loaded: object) -> Origins:
    """Returns where the values of a loaded job, cluster or topology stand; empty for one made otherwise."""
    return getattr(loaded, "_origins", None) or Origins("manifest")


class ManifestError(InputError):
    """A manifest, or a `key=value`, is wrong; the text is `FILE:LINE: KEY.PATH: what is wrong; the mend`.

    Attributes:
        origin: where the wrong value stands; None where the file itself is at fault.
        key: the key path in that file, as text; empty where the file itself is at fault.
    """

    def __init__(self, text: str, *, origin: Origin | None = None, key: str = "") -> None:
        super().__init__(one_line(InputError(text)))
        self.origin = origin
        self.key = key

    @classmethod
    def at(cls, origin: Origin, path: KeyPath, problem: str) -> "ManifestError":
        """Makes the error of one key.

        Args:
            origin: where it stands.
            path: its key path.
            problem: what is wrong; what was expected.
        """
        key = format_path((*origin.at, *path))
        return cls(f"{origin}: {key}: {problem}" if key else f"{origin}: {problem}", origin=origin, key=key)

    @classmethod
    def of_file(cls, file: str, problem: str) -> "ManifestError":
        """Makes the error of a file that cannot be read as a manifest."""
        return cls(f"{file}: {problem}", origin=Origin(file))
