"""`yuan upgrade`: a home of an older version becomes one of this version, with a backup of what it was."""

import json
from datetime import UTC, datetime
from pathlib import Path

import typer

from yuan_cli.backup import cluster_at_rest
from yuan_jobs.backup import back_up
from yuan_jobs.database import look_at
from yuan_jobs.migrations import HEAD
from yuan_jobs.registry import Registry
from yuan_rpc.version import VERSION


def upgrade_home(cluster_path: Path | None, *, backup: Path | None, dry_run: bool, as_json: bool) -> int:
    """Backs the registry up and migrates it; says what there was to do."""
    cluster = cluster_at_rest(cluster_path)
    look = look_at(cluster.registry)
    before = look.revision
    behind = before is not None and before != HEAD
    file: Path | None = None
    if behind and not dry_run:
        file = backup or _new_file(Path(cluster.home), before)
        back_up(cluster.registry, file)
        Registry.open(cluster.registry).close()
    if as_json:
        facts = {"registry": look.shown, "schema": before, "newest": HEAD, "version": VERSION, "dry_run": dry_run}
        typer.echo(json.dumps({**facts, "backup": None if file is None else str(file)}, indent=2))
    elif before is None:
        typer.echo(f"registry {look.shown}: nothing is in it yet")
    elif not behind:
        typer.echo(f"registry {look.shown}: schema {HEAD} is that of Yuan Stack {VERSION}; nothing to do")
    elif file is None:
        typer.echo(f"would back up {look.shown} and bring it from schema {before} to {HEAD} of Yuan Stack {VERSION}")
    else:
        typer.echo(f"backed up into {file}, as it was; to go back: yuan restore {file} --force, of the older version")
    return 0


def _new_file(home: Path, revision: str | None) -> Path:
    folder = home / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"registry-schema-{revision}-{datetime.now(UTC):%Y%m%d-%H%M%S}.backup"
