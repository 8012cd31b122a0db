"""`yuan backup`, `yuan restore`: the registry as a file, and back."""

import json
from dataclasses import asdict
from pathlib import Path

import typer

from yuan_events import InputError
from yuan_jobs.backup import Backup, back_up, restore
from yuan_manifest import Cluster, load_cluster
from yuan_rpc import audit_of, audited
from yuan_stack.folder import StackFolder, holder_of
from yuan_stack.processes import with_absolute_paths


def write_backup(file: Path, cluster_path: Path | None, *, as_json: bool) -> int:
    """Writes a backup and says what is in it."""
    _tell("backed up into", file, back_up(_cluster(cluster_path).registry, file), as_json=as_json)
    return 0


def restore_backup(file: Path, cluster_path: Path | None, *, force: bool, as_json: bool) -> int:
    """Restores a backup and says what is there now."""
    cluster = _cluster(cluster_path)
    if holder_of(StackFolder(Path(cluster.home))) is not None:
        raise InputError(f"a stack runs in {cluster.home} and works on its registry; end it first: yuan down")
    with audited(audit_of(cluster.security), "yuan restore", {"file": str(file)}):
        restored = restore(cluster.registry, file, force=force)
    _tell("restored from", file, restored, as_json=as_json)
    return 0


def _cluster(path: Path | None) -> Cluster:
    return with_absolute_paths(load_cluster(path)).cluster


def _tell(what: str, file: Path, backup: Backup, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"file": str(file), **asdict(backup), "created": backup.created.isoformat()}, indent=2))
        return
    rows = {name: backup.rows.get(name, 0) for name in ("jobs", "artifacts", "schedules", "deployments")}
    counts = ", ".join(f"{count:,} {name}" for name, count in rows.items())
    typer.echo(f"{what} {file}: {counts} (schema {backup.revision}, {backup.created:%Y-%m-%d %H:%M} UTC)")
