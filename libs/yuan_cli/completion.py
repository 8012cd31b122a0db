"""What the shell offers on Tab. Never fails and never makes anything: without a registry there is nothing to offer."""

from collections.abc import Iterable
from pathlib import Path

KINDS = ("tokenizer", "dataset", "model", "report")


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


def complete_job(incomplete: str) -> list[str]:
    """Returns the ids of jobs that begin so, newest first."""
    try:
        from yuan_jobs.queries import list_jobs  # noqa: PLC0415
        from yuan_jobs.registry import Registry  # noqa: PLC0415
        from yuan_manifest import load_cluster  # noqa: PLC0415

        url = load_cluster().cluster.registry
        if not Path(url.removeprefix("sqlite:///")).exists():
            return []
        registry = Registry.open(url)
        try:
            ids = [job.id for job in list_jobs(registry, include_children=True).jobs]
            return [job_id for job_id in ids if job_id.startswith(incomplete)]
        finally:
            registry.close()
    except Exception:  # noqa: BLE001 - whatever is wrong, the shell is no place to say it
        return []


def _artifacts() -> list[tuple[str, str, int]]:
    """Returns kind, name and version of all artifacts in the default cluster's registry."""
    try:
        from yuan_jobs.registry import Registry  # noqa: PLC0415
        from yuan_manifest import load_cluster  # noqa: PLC0415

        url = load_cluster().cluster.registry
        if not Path(url.removeprefix("sqlite:///")).exists():
            return []
        registry = Registry.open(url)
        try:
            return [(record.kind, record.name, record.version) for record in registry.artifacts()]
        finally:
            registry.close()
    except Exception:  # noqa: BLE001 - whatever is wrong, the shell is no place to say it
        return []
