"""Which folder a user means: a path, or a model artifact."""

from dataclasses import dataclass, field
from pathlib import Path

from yuan_events import InputError
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_jobs.references import ArtifactKind, ArtifactNotFound
from yuan_manifest.loading import load_cluster


@dataclass(frozen=True)
class Place:
    """A folder. name: for people. hashes: sha256 of its files by name, where it is an artifact."""

    folder: Path
    name: str
    hashes: dict[str, str] = field(default_factory=dict[str, str])


def is_path(given: str) -> bool:
    """Says whether a text can only be a path: it begins like one, or with a word that is no kind of artifact."""
    first, slash, _ = given.partition("/")
    return given.startswith(("/", ".", "~")) or (bool(slash) and first not in set(ArtifactKind))


def place_of(given: str, cluster: str | None) -> Place:
    """Returns the folder of a path or of a model artifact; an artifact comes before a folder of the same name.

    Raises:
        InputError: if there is neither.
    """
    if is_path(given):
        return Place(Path(given).expanduser(), given)
    store = ArtifactStore.open(Home.of(load_cluster(cluster).cluster))
    try:
        return artifact_place(given, store)
    except ArtifactNotFound as error:
        if Path(given).is_dir():
            return Place(Path(given), given)
        raise InputError(f"{error}; there is no folder {given} either") from error
    finally:
        store.registry.close()


def artifact_place(reference: str, store: ArtifactStore) -> Place:
    """Returns the folder of a model artifact.

    Raises:
        InputError: if there is none.
    """
    handle = store.open_artifact(reference, "model")
    hashes = {file["path"]: file["sha256"] for file in handle.metadata.get("files", ())}
    return Place(handle.path, handle.reference, hashes)
