"""The artifact store: immutable, versioned folders with hashes and lineage, published last.

A job fills `kind/name/<job id>/attempt-N/`; every file is hashed; `artifact.json` is written last; the registry's
row makes it visible. So a reader sees a whole artifact or none. Published files are never written again.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from yuan_events import InputError, WorkFailed
from yuan_jobs.context import ArtifactHandle
from yuan_jobs.home import Home
from yuan_jobs.identity import digest_of, digest_of_file
from yuan_jobs.insisting import insist, never
from yuan_jobs.records import ArtifactRecord, Claim, NewArtifact
from yuan_jobs.references import Reference, check_name, not_found
from yuan_jobs.registry import Registry, StaleAttemptError
from yuan_jobs.storage import Storage, open_storage

MANIFEST_NAME = "artifact.json"
SCHEMA_VERSION = 1


class ArtifactDamaged(WorkFailed):
    """A published artifact's files are not what was published."""


@dataclass(frozen=True)
class Publication:
    """What is told of an artifact when it is published.

    Attributes:
        kind: its kind.
        name: its name.
        claim: the attempt that made it.
        identity: of the job (the recipe's hash, with its inputs).
        recipe: the job's.
        inputs: artifacts it was made from, by their names in the manifest.
        input_digests: digests of other inputs, by name.
        summary: the work's result, JSON-able.
    """

    kind: str
    name: str
    claim: Claim
    identity: str
    recipe: Mapping[str, Any]
    inputs: Mapping[str, ArtifactHandle]
    input_digests: Mapping[str, str]
    summary: Mapping[str, Any]


class ArtifactStore:
    """Artifacts of a home: files in its store, names and versions in its registry."""

    def __init__(self, storage: Storage, registry: Registry) -> None:
        self._storage = storage
        self._registry = registry

    @classmethod
    def open(cls, home: Home) -> "ArtifactStore":
        """Opens a home's store and registry.

        Raises:
            InputError: if one of them cannot be opened.
        """
        return cls(open_storage(home), Registry.open(home.registry_url))

    @property
    def registry(self) -> Registry:
        """The registry of its artifacts."""
        return self._registry

    @property
    def storage(self) -> Storage:
        """Where its files are."""
        return self._storage

    # --- reading ------------------------------------------------------------------------------------------------

    def find(self, reference: str, kind: str | None = None) -> ArtifactRecord:
        """Returns the registry's record for `[kind/]name[@version|@latest]`, without a look at the files.

        Args:
            reference: which artifact.
            kind: the kind that is wanted; None: any.

        Raises:
            ArtifactNotFound: if there is none; the message has the nearest names.
            InputError: if the text is no reference, or fits several kinds.
        """
        wanted = Reference.parse(reference, kind)
        if wanted.kind is not None:
            record = self._registry.artifact(wanted.kind, wanted.name, wanted.version)
            if record is not None:
                return record
        everything = self._registry.artifacts()
        if wanted.kind is None:
            fitting = [r for r in everything if r.name == wanted.name and r.version == (wanted.version or r.version)]
            kinds = sorted({record.kind for record in fitting})
            if len(kinds) > 1:
                examples = " or ".join(f"{found}/{wanted.name}" for found in kinds)
                raise InputError(f"artifact {reference}: there are several of that name; say {examples}")
            if fitting:
                return fitting[-1]
        raise not_found(wanted, ((record.kind, record.name, record.version) for record in everything))

    def open_artifact(self, reference: str, kind: str | None = None) -> ArtifactHandle:
        """Returns an artifact as a folder of this machine, with its files' presence and sizes checked.

        Args:
            reference: `[kind/]name[@version|@latest]`.
            kind: the kind that is wanted; None: any.

        Raises:
            ArtifactNotFound, InputError: as `find`.
            ArtifactDamaged: if files are missing or changed in size.
        """
        return self.open_record(self.find(reference, kind))

    def open_record(self, record: ArtifactRecord) -> ArtifactHandle:
        """Returns a record's artifact as `open_artifact` does."""
        reference = f"{record.kind}/{record.name}@{record.version}"
        mend = "make it again with `yuan run … --force`"
        try:
            folder = self._storage.fetch(record.path, [MANIFEST_NAME])
            metadata: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
            files = {str(file["path"]): int(file["size_bytes"]) for file in metadata["files"]}
            if metadata["digest"] != record.digest or _files_digest(metadata["files"]) != record.digest:
                raise ArtifactDamaged(f"artifact {reference}: {MANIFEST_NAME} is not the published one; {mend}")
            self._storage.fetch(record.path, files)
            for name, size in files.items():
                if (folder / name).stat().st_size != size:
                    raise ArtifactDamaged(f"artifact {reference}: {name} is not {size} bytes long any more; {mend}")
        except FileNotFoundError as error:
            missing = Path(error.filename).name if isinstance(error.filename, str) else MANIFEST_NAME
            raise ArtifactDamaged(f"artifact {reference}: {missing} is gone from {record.path}; {mend}") from None
        except OSError as error:
            raise ArtifactDamaged(f"artifact {reference}: {(error.strerror or str(error)).lower()}") from None
        except (ValueError, KeyError, TypeError):
            raise ArtifactDamaged(f"artifact {reference}: {MANIFEST_NAME} cannot be read; {mend}") from None
        return ArtifactHandle(record.kind, record.name, record.version, folder, record.digest, metadata)

    def verify(self, artifact: ArtifactHandle) -> None:
        """Reads every file of an artifact and compares its hash with the published one.

        Raises:
            ArtifactDamaged: naming the first file that differs.
        """
        for file in artifact.metadata["files"]:
            try:
                digest = digest_of_file(artifact.path / file["path"])
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise ArtifactDamaged(f"artifact {artifact.reference}: {file['path']}: {reason}") from None
            if digest != file["sha256"]:
                raise ArtifactDamaged(
                    f"artifact {artifact.reference}: {file['path']} is not what was published (its sha256 differs); "
                    "make it again with `yuan run … --force`"
                )

    # --- writing ------------------------------------------------------------------------------------------------

    def begin(self, kind: str, name: str, claim: Claim) -> Path:
        """Returns the empty folder that an attempt fills; what earlier attempts left behind is removed.

        Only what is of earlier ones: an attempt that was taken for dead and wakes here must not touch its successor's.

        Raises:
            InputError: if the name cannot be one.
            OSError: if the folder cannot be made.
        """
        check_name(name)
        job_folder = f"{kind}/{name}/{claim.job_id}"
        earlier = {_attempt_folder(number) for number in range(1, claim.attempt)}
        for left in earlier.intersection(self._storage.children(job_folder)):
            self._storage.remove(f"{job_folder}/{left}")
        return self._storage.workspace(_folder(kind, name, claim))

    def discard(self, kind: str, name: str, claim: Claim) -> None:
        """Removes what an attempt made and did not publish; never fails."""
        with suppress(OSError):
            self._storage.remove(_folder(kind, name, claim))

    def publish(self, folder: Path, publication: Publication, *, keep_on: Callable[[], bool] = never) -> ArtifactHandle:
        """Hashes a filled folder (one that `begin` returned), seals it, and makes it the name's next version.

        The job SUCCEEDED in the same transaction, with the summary as its result.

        Args:
            folder: what is published.
            publication: as what.
            keep_on: asked whether to try again where the registry is away.

        Raises:
            WorkFailed: if the folder is empty or has something else than files and folders in it.
            StaleAttemptError: if another attempt of the job has begun; nothing is published.
            OSError: if it cannot be written; nothing is published.
        """
        claim = publication.claim
        files = _hashed_files(folder)
        digest = _files_digest(files)
        inputs = {
            name: insist(partial(self._registry.artifact, handle.kind, handle.name, handle.version), keep_on)
            for name, handle in publication.inputs.items()
        }
        metadata: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": publication.kind,
            "name": publication.name,
            "digest": digest,
            "job": {"id": claim.job_id, "attempt": claim.attempt, "identity": publication.identity},
            "recipe": dict(publication.recipe),
            "recipe_sha256": digest_of(publication.recipe),
            "inputs": {
                name: {"artifact": handle.reference, "digest": handle.digest}
                for name, handle in publication.inputs.items()
            }
            | {name: {"digest": value} for name, value in publication.input_digests.items()},
            "files": files,
            "summary": dict(publication.summary),
        }
        text = json.dumps(metadata, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
        relative = _folder(publication.kind, publication.name, claim)
        self._storage.seal(relative, [*(file["path"] for file in files), MANIFEST_NAME])
        new = NewArtifact(
            kind=publication.kind,
            name=publication.name,
            path=relative,
            digest=digest,
            size_bytes=sum(file["size_bytes"] for file in files),
            inputs={name: record.id for name, record in inputs.items() if record is not None},
        )

        def publish() -> ArtifactRecord:
            try:
                return self._registry.publish(claim, new, publication.summary)
            except StaleAttemptError:
                # A registry that went away in the midst of it may have published it: nobody else has this path.
                if (published := self._registry.artifact_at(relative)) is None:
                    raise
                return published

        return self.open_record(insist(publish, keep_on))


def _folder(kind: str, name: str, claim: Claim) -> str:
    return f"{kind}/{name}/{claim.job_id}/{_attempt_folder(claim.attempt)}"


def _attempt_folder(number: int) -> str:
    return f"attempt-{number}"


def _hashed_files(folder: Path) -> list[dict[str, Any]]:
    """Returns path, sha256 and size of every file below a folder, by path."""
    files: list[dict[str, Any]] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise WorkFailed(f"cannot publish {name}: only plain files and folders can be part of an artifact")
        if path.is_file():
            if name == MANIFEST_NAME:
                raise WorkFailed(f"cannot publish {name}: that name is the store's own")
            files.append({"path": name, "sha256": digest_of_file(path), "size_bytes": path.stat().st_size})
    if not files:
        raise WorkFailed("the work ended without having made a file")
    return files


def _files_digest(files: list[dict[str, Any]]) -> str:
    return digest_of([[file["path"], file["sha256"], file["size_bytes"]] for file in files])
