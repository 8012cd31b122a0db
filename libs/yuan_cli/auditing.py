"""`yuan audit`: shows the log of who did what."""

import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from yuan_cli.tokens import moment_ago
from yuan_manifest import load_cluster
from yuan_rpc import read_audit
from yuan_stack.processes import with_absolute_paths
from yuan_stack.tables import aligned


@dataclass(frozen=True)
class Wanted:
    """Which lines; empty: all.

    Attributes:
        subject: who.
        method: in the method's name.
        about: in one of the object's values.
        refused: only refusals.
        since: no older ones: `7d`, or a day.
    """

    subject: str = ""
    method: str = ""
    about: str = ""
    refused: bool = False
    since: str | None = None


def print_audit(cluster_path: Path | None, wanted: Wanted, *, lines: int, as_json: bool) -> int:
    """Prints the newest lines that are wanted, the oldest of them first."""
    cluster = with_absolute_paths(load_cluster(cluster_path)).cluster
    folder = Path(cluster.security.audit.folder)
    since = "" if wanted.since is None else moment_ago(wanted.since, "--since").isoformat(timespec="milliseconds")
    rows = deque((row for row in read_audit(folder) if _is_wanted(row, wanted, since)), maxlen=lines)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return 0
    if not rows:
        typer.echo(f"{folder}: nothing of that is in the audit log", err=True)
        return 0
    shown = [
        (
            str(row["time"])[:19].replace("T", " "),
            f"{row.get('subject', '')}{' (' + row['role'] + ')' if row.get('role') else ''}",
            f"{row.get('service', '')} {str(row.get('method', '')).rpartition('/')[2] or row.get('method', '')}",
            " ".join(dict(row.get("object") or {}).values()),
            f"{row.get('outcome', '')}{_more(row)}",
            str(row.get("peer", "")),
        )
        for row in rows
    ]
    for line in aligned(("time (UTC)", "who", "what", "object", "outcome", "from"), shown, right=()):
        typer.echo(line)
    return 0


def _is_wanted(row: dict[str, Any], wanted: Wanted, since: str) -> bool:
    return (
        (not wanted.subject or row.get("subject") == wanted.subject)
        and wanted.method in str(row.get("method", ""))
        and (not wanted.about or any(wanted.about in str(value) for value in dict(row.get("object") or {}).values()))
        and (not wanted.refused or row["stream"] == "refusals")
        and str(row["time"]) >= since
    )


def _more(row: dict[str, Any]) -> str:
    return f" (and {row['omitted']} before it)" if row.get("omitted") else ""
