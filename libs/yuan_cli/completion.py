"""What the shell offers on Tab. Never fails and never makes anything: without a registry there is nothing to offer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from yuan_jobs.registry import Registry

FoundT = TypeVar("FoundT")

KINDS = ("tokenizer", "dataset", "model", "report", "requests")


def complete_kind(incomplete: str) -> list[str]:
    """Returns the kinds of artifacts that begin so."""
    return [kind for kind in KINDS if kind.startswith(incomplete)]


def complete_artifact(incomplete: str) -> list[str]:
    """Returns `kind/name`, and once there is an @, `kind/name@version`, of artifacts that begin so."""
    found = _artifacts()
    if "@" in incomplete:
        names: Iterable[str] = (f"{kind}/{name}@{version}" for kind, name, version in found)
    else:
        names = {f"{kind}/{name}": None for kind, name, _ in found}
    return [name for name in names if name.startswith(incomplete)]


def complete_artifact_or_job(incomplete: str) -> list[str]:
    """Returns artifacts, and else jobs, that begin so."""
    return complete_artifact(incomplete) or complete_job(incomplete)


def complete_model(incomplete: str) -> list[str]:
    """Returns the names of models that begin so."""
    names = {name: None for kind, name, _ in _artifacts() if kind == "model"}
    return [name for name in names if name.startswith(incomplete)]


def complete_dataset(incomplete: str) -> list[str]:
    """Returns the names of datasets that begin so."""
    names = {name: None for kind, name, _ in _artifacts() if kind == "dataset"}
    return [name for name in names if name.startswith(incomplete)]


def complete_job(incomplete: str) -> list[str]:
    """Returns the ids of jobs that begin so, newest first."""

    def ids_of(registry: Registry) -> list[str]:
        from yuan_jobs.queries import list_jobs  # noqa: PLC0415

        return [job.id for job in list_jobs(registry, include_children=True).jobs]

    return [job_id for job_id in _from_registry(ids_of) if job_id.startswith(incomplete)]


def _artifacts() -> list[tuple[str, str, int]]:
    """Returns kind, name and version of all artifacts in the default cluster's registry."""
    return _from_registry(lambda registry: [(one.kind, one.name, one.version) for one in registry.artifacts()])


def _from_registry(read: Callable[[Registry], list[FoundT]]) -> list[FoundT]:
    """Returns what is read from the default cluster's registry; nothing where there is none, or it cannot be read."""
    try:
        from yuan_jobs.queries import read_if_there  # noqa: PLC0415
        from yuan_manifest import load_cluster  # noqa: PLC0415

        return read_if_there(load_cluster().cluster.registry, read, [])
    except Exception:  # noqa: BLE001 - whatever is wrong, the shell is no place to say it
        return []
