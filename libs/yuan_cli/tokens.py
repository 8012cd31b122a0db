"""`yuan token`: makes, lists and takes back tokens, as the user of this machine who owns their file."""

import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import typer

from yuan_events import InputError
from yuan_manifest import Cluster, load_cluster
from yuan_manifest.rules import NAME, NAME_RULE
from yuan_manifest.schema import Role
from yuan_rpc import audit_of, audited, ensure_token_file
from yuan_rpc.callers import OWNER_NAME
from yuan_rpc.security import read_tokens
from yuan_rpc.tokens import IssuedToken, TokenStore, write_secret
from yuan_stack.processes import with_absolute_paths
from yuan_stack.tables import aligned

_SPAN = re.compile(r"(\d{1,6})([hd])")


def issue(
    name: str,
    cluster_path: Path | None,
    *,
    role: str | None,
    expires: str | None,
    others_end: str | None,
    limits: Mapping[str, int | None],
    as_json: bool,
) -> int:
    """Makes a token; the token alone is on stdout."""
    cluster = _cluster(cluster_path)
    if not NAME.fullmatch(name) or name in {OWNER_NAME, "unknown"}:
        raise InputError(f"{name!r} cannot be a name; use {NAME_RULE}")
    if name in cluster.security.tenants:
        raise InputError(f"{name} is a tenant of the cluster's manifest already; see cluster.security.tenants")
    if role is not None and role not in set(Role):
        raise InputError(f"--role: expected one of {', '.join(Role)}, found {role!r}")
    ends = None if expires is None else moment(expires, "--expires")
    if ends is not None and ends <= datetime.now(UTC):
        raise InputError(f"--expires: {expires} is over")
    others = None if others_end is None else moment(others_end, "--others-end")
    store = _store(cluster)
    known = [one.role for one in store.all() if one.name == name]
    chosen = Role(role) if role else known[-1] if known else Role.viewer
    with audited(audit_of(cluster.security), "yuan token new", {"name": name, "role": chosen}):
        made, token = store.issue(name, chosen, expires=ends, limits=limits, others_end=others)
    if as_json:
        typer.echo(json.dumps({**_facts(made), "token": token}, indent=2))
        return 0
    until = f"until {made.expires:%Y-%m-%d %H:%M} UTC" if made.expires else "without an end"
    typer.echo(f"{made.name} ({made.role}, {until}), id {made.id}; this is the only time that it is shown:", err=True)
    typer.echo(token)
    return 0


def print_tokens(cluster_path: Path | None, *, as_json: bool) -> int:
    """Lists issued tokens and the tenants of the manifest."""
    cluster = _cluster(cluster_path)
    issued = [_facts(one) for one in _store(cluster).all()]
    tenants = [
        {"id": None, "name": name, "role": str(one.role), "created": None, "expires": one.expires}
        for name, one in cluster.security.tenants.items()
    ]
    rows: list[dict[str, Any]] = [*issued, *tenants]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return 0
    if not rows:
        typer.echo("there are no tokens besides the stack's own; yuan token new NAME makes one", err=True)
        return 0
    now = datetime.now(UTC).isoformat()
    shown = [
        (
            row["name"],
            row["role"],
            row["id"] or "manifest",
            (row["created"] or "")[:10],
            "never" if not row["expires"] else f"{row['expires'][:16]}{' (over)' if row['expires'] < now else ''}",
        )
        for row in rows
    ]
    for line in aligned(("name", "role", "id", "created", "ends"), shown, right=()):
        typer.echo(line)
    return 0


def revoke(which: str, cluster_path: Path | None) -> int:
    """Takes tokens back."""
    cluster = _cluster(cluster_path)
    with audited(audit_of(cluster.security), "yuan token revoke", {"name": which}):
        if which in cluster.security.tenants:
            raise InputError(f"{which} is a tenant of the cluster's manifest: take it out of cluster.security.tenants")
        gone = _store(cluster).revoke(which)
    for one in gone:
        typer.echo(f"{one.name} ({one.role}), id {one.id}: holds no more")
    return 0


def rotate(cluster_path: Path | None, *, finish: bool) -> int:
    """Puts a new token first into the stack's own file, or takes all but the first out of it."""
    cluster = _cluster(cluster_path)
    file = Path(cluster.security.token_file)
    with audited(audit_of(cluster.security), f"yuan token rotate{' --finish' if finish else ''}", {"name": OWNER_NAME}):
        if not finish:
            ensure_token_file(file)
        tokens = read_tokens(file)
        kept = tokens[:1] if finish else (secrets.token_urlsafe(32), *tokens)
        write_secret(file, "".join(f"{token}\n" for token in kept))
    if finish:
        typer.echo(f"{file}: {len(tokens) - 1} older hold no more")
    else:
        typer.echo(f"{file}: has a new one; {len(tokens)} older hold until: yuan token rotate --finish")
    return 0


def moment(text: str, option: str) -> datetime:
    """Returns what `90d`, `12h` (from now on) or a day or time stands for.

    Raises:
        InputError: if it is neither, naming the option.
    """
    return _moment(text, option, 1)


def moment_ago(text: str, option: str) -> datetime:
    """Returns what `90d`, `12h` (before now) or a day or time stands for.

    Raises:
        InputError: as `moment`.
    """
    return _moment(text, option, -1)


def _moment(text: str, option: str, sign: int) -> datetime:
    span = _SPAN.fullmatch(text)
    try:
        if span:
            hours = int(span[1]) * (24 if span[2] == "d" else 1)
            return datetime.now(UTC) + sign * timedelta(hours=hours)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InputError(f"{option}: expected 12h, 90d or a day like 2027-01-31, found {text!r}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _cluster(path: Path | None) -> Cluster:
    return with_absolute_paths(load_cluster(path)).cluster


def _store(cluster: Cluster) -> TokenStore:
    return TokenStore(Path(cluster.security.tokens))


def _facts(token: IssuedToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "role": str(token.role),
        "created": token.created.isoformat(timespec="seconds"),
        "expires": token.expires.isoformat(timespec="seconds") if token.expires else None,
        "requests_per_minute": token.requests_per_minute,
        "tokens_per_minute": token.tokens_per_minute,
        "concurrent_requests": token.concurrent_requests,
    }
