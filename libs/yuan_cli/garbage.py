"""`yuan gc`: tells what the stack keeps no longer, and removes it."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import typer

from yuan_cli.artifacts import artifact_store, client_of, size_text
from yuan_events import InputError
from yuan_jobs.garbage import collect_garbage
from yuan_jobs.home import Home
from yuan_manifest import Cluster, load_cluster
from yuan_rpc import audit_of, audited
from yuan_stack.tables import aligned

Row = tuple[str, str, int | None]
"""What it is, which one, its bytes where they are known."""


def print_garbage(
    cluster_path: Path | None, *, dry_run: bool, keep: int | None, days: float | None, as_json: bool
) -> int:
    """Collects garbage and prints what it was."""
    for option, value, smallest in (("--keep", keep, 1), ("--days", days, 0)):
        if value is not None and not value >= smallest:
            raise InputError(f"yuan gc: {option}: expected at least {smallest}, found {value}")
    rows = _collect(load_cluster(cluster_path).cluster, dry_run=dry_run, keep=keep, days=days)
    size = sum(bytes_ or 0 for _, _, bytes_ in rows)
    if as_json:
        items = [{"what": what, "name": name, "size_bytes": bytes_} for what, name, bytes_ in rows]
        typer.echo(json.dumps({"dry_run": dry_run, "size_bytes": size, "removed": items}, indent=2))
        return 0
    shown = [(what, name, "" if bytes_ is None else size_text(bytes_)) for what, name, bytes_ in rows]
    for line in aligned(("", "", "size"), shown, right=("size",)) if shown else []:
        typer.echo(line)
    if not rows:
        typer.echo("there is nothing that is not kept")
    elif dry_run:
        typer.echo(f"{size_text(size)} would be removed; without --dry-run they are")
    else:
        typer.echo(f"{size_text(size)} removed")
    return 0


def _collect(cluster: Cluster, *, dry_run: bool, keep: int | None, days: float | None) -> Sequence[Row]:
    client = client_of(cluster)
    if client is not None:
        with client:
            reply = client.collect_garbage(dry_run=dry_run, artifact_versions=keep, run_days=days)
        return [
            *(("artifact", f"{a.kind}/{a.name}@{a.version}", a.size_bytes) for a in reply.artifacts),
            *(("run", run.job_id, run.size_bytes) for run in reply.runs),
            *(("leftover", path, None) for path in reply.leftovers),
        ]
    retention = replace(cluster.retention)
    if keep is not None:
        retention.artifact_versions = keep
    if days is not None:
        retention.run_days = days
    telling = nullcontext() if dry_run else audited(audit_of(cluster.security), "yuan gc", {})
    with telling, artifact_store(cluster) as store:
        found = collect_garbage(store, Home.of(cluster), retention, dry_run=dry_run)
    return [
        *(("artifact", f"{a.kind}/{a.name}@{a.version}", a.size_bytes) for a in found.artifacts),
        *(("run", run.job_id, run.size_bytes) for run in found.runs),
        *(("leftover", path, None) for path in found.leftovers),
    ]
