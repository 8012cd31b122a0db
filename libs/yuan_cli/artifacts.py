"""`yuan artifacts` and `yuan show`."""

import difflib
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from yuan_events import InputError
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_jobs.records import ArtifactRecord
from yuan_jobs.references import ArtifactKind
from yuan_manifest import load_cluster
from yuan_manifest.yaml_source import dump_yaml
from yuan_stack.tables import aligned


def print_listing(kind: str | None, cluster: Path | None, *, as_json: bool) -> int:
    """Prints all artifacts (of a kind)."""
    chosen = None if kind is None else _kind(kind)
    with _store(cluster) as store:
        records = store.registry.artifacts(chosen)
    if as_json:
        typer.echo(json.dumps([_facts(record) for record in records], indent=2))
    elif not records:
        what = f"no {chosen}" if chosen else "nothing"
        typer.echo(f"{what} has been made in this home yet; `yuan` alone shows how to begin", err=True)
    else:
        rows = [
            (_reference(record), _size(record.size_bytes), f"{record.created:%Y-%m-%d %H:%M} UTC", record.job_id)
            for record in records
        ]
        for line in aligned(("artifact", "size", "made", "by job"), rows, right=("size",)):
            typer.echo(line)
    return 0


def print_artifact(reference: str, cluster: Path | None, *, as_json: bool, verify: bool) -> int:
    """Prints one artifact: where it came from, what it is made of, what was made from it."""
    with _store(cluster) as store:
        record = store.find(reference)
        handle = store.open_record(record)
        if verify:
            store.verify(handle)
        inputs = store.registry.inputs_of(record.id)
        users = store.registry.made_from(record.id)
    if as_json:
        facts = {
            **_facts(record),
            "path": str(handle.path),
            "made_from": {name: _reference(source) for name, source in inputs.items()},
            "used_by": [_reference(user) for user in users],
            "manifest": dict(handle.metadata),
        }
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    files: list[dict[str, Any]] = handle.metadata["files"]
    job: dict[str, Any] = handle.metadata["job"]
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    verified = ", every one as it was published" if verify else ""
    rows = [
        ("made", f"{record.created:%Y-%m-%d %H:%M:%S} UTC by job {record.job_id}, attempt {job['attempt']}"),
        ("path", str(handle.path)),
        ("size", f"{_size(record.size_bytes)} in {count}{verified}"),
        ("digest", record.digest),
        *_lines("made from", [f"{name}: {_reference(source)}" for name, source in inputs.items()]),
        *_lines("used by", [_reference(user) for user in users]),
        *_lines("summary", [f"{name}: {_short(value)}" for name, value in handle.summary.items()]),
    ]
    typer.echo(_reference(record))
    for line in aligned((), rows):
        typer.echo(f"  {line}")
    typer.echo("files")
    for line in aligned((), [(file["path"], _size(file["size_bytes"]), file["sha256"][:12]) for file in files]):
        typer.echo(f"  {line}")
    typer.echo("recipe")
    for line in dump_yaml(handle.metadata["recipe"]).splitlines():
        typer.echo(f"  {line}")
    return 0


@contextmanager
def _store(cluster: Path | None) -> Generator[ArtifactStore, None, None]:
    store = ArtifactStore.open(Home.of(load_cluster(cluster).cluster))
    try:
        yield store
    finally:
        store.registry.close()


def _kind(text: str) -> ArtifactKind:
    """Returns the kind of a name; a plural will do."""
    for kind in ArtifactKind:
        if text in {kind.value, f"{kind.value}s"}:
            return kind
    near = difflib.get_close_matches(text, list(ArtifactKind), n=1)
    mend = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(ArtifactKind)}"
    raise InputError(f"yuan artifacts: no kind {text!r}; {mend}")


def _facts(record: ArtifactRecord) -> dict[str, Any]:
    return {
        "artifact": _reference(record),
        "kind": record.kind,
        "name": record.name,
        "version": record.version,
        "size_bytes": record.size_bytes,
        "digest": record.digest,
        "job": record.job_id,
        "created": record.created.isoformat(),
    }


def _reference(record: ArtifactRecord) -> str:
    return f"{record.kind}/{record.name}@{record.version}"


def _lines(label: str, values: list[str]) -> list[tuple[str, str]]:
    return [(label if number == 0 else "", value) for number, value in enumerate(values)]


def _short(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _size(size_bytes: int) -> str:
    """Returns `12.3 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
