"""`yuan artifacts` and `yuan show`: from the registry where it is on this machine, else from a server."""

import difflib
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from yuan_cli.facts import labelled, short_value
from yuan_cli.jobs import print_job
from yuan_events import InputError, YuanError
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.client import JobClient
from yuan_jobs.home import Home
from yuan_jobs.messages import plain_of
from yuan_jobs.records import ArtifactRecord
from yuan_jobs.references import ArtifactKind, ArtifactNotFound
from yuan_manifest import Cluster, load_cluster
from yuan_manifest.yaml_source import dump_yaml
from yuan_rpc import RpcRefused, StatusCode
from yuan_rpc.jobs.v1 import jobs_pb2
from yuan_stack.tables import aligned

_SQLITE = "sqlite:///"

_JOB_ID = re.compile(r"-1[0-9a-hjkmnp-tv-z]{2,13}$")
"""The end of a job's id, perhaps shortened: milliseconds in base 32, which begin with 1 until the year 2039."""


@dataclass(frozen=True)
class ArtifactView:
    """An artifact as it is printed, read from the registry here or told by a server.

    Attributes:
        reference: `kind/name@version`.
        size_bytes: of its files together.
        digest: over them.
        job: id of the job that made it.
        created: when, in UTC.
        path: its folder or URL; empty in a listing.
        metadata: `artifact.json`; empty in a listing.
        made_from: artifacts by name of the input; empty in a listing.
        used_by: artifacts that were made from it; empty in a listing.
    """

    reference: str
    size_bytes: int
    digest: str
    job: str
    created: datetime
    path: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    made_from: Mapping[str, str] = field(default_factory=dict[str, str])
    used_by: Sequence[str] = ()

    def facts(self) -> dict[str, Any]:
        """Returns it for programs, as in a listing."""
        kind, _, rest = self.reference.partition("/")
        name, _, version = rest.rpartition("@")
        return {
            "artifact": self.reference,
            "kind": kind,
            "name": name,
            "version": int(version),
            "size_bytes": self.size_bytes,
            "digest": self.digest,
            "job": self.job,
            "created": self.created.isoformat(),
        }


def client_of(cluster: Cluster) -> JobClient | None:
    """Returns a client where artifacts are to be asked for; None where the registry is on this machine.

    Raises:
        YuanError: if the registry can only be elsewhere, and no server answers.
    """
    is_file = cluster.registry.startswith(_SQLITE)
    if is_file and Path(cluster.registry.removeprefix(_SQLITE)).expanduser().exists():
        return None
    # A stack in containers has its registry in one of them, and none here, whatever the client's manifest says.
    try:
        client = JobClient(cluster)
        client.reach()
    except YuanError:
        if is_file:
            return None
        raise
    return client


def print_listing(kind: str | None, cluster_path: Path | None, *, as_json: bool) -> int:
    """Prints all artifacts (of a kind)."""
    chosen = None if kind is None else _kind(kind)
    cluster = load_cluster(cluster_path).cluster
    client = client_of(cluster)
    if client is None:
        with artifact_store(cluster) as store:
            views = [_view(record) for record in store.registry.artifacts(chosen)]
    else:
        with client:
            views = [_view_of_message(message) for message in client.artifacts(chosen or "")]
        views.sort(key=lambda view: (view.reference.rpartition("@")[0], view.facts()["version"]))
    if as_json:
        typer.echo(json.dumps([view.facts() for view in views], indent=2))
    elif not views:
        what = f"no {chosen}" if chosen else "nothing"
        typer.echo(f"{what} has been made in this home yet; `yuan` alone shows how to begin", err=True)
    else:
        rows = [
            (view.reference, size_text(view.size_bytes), f"{view.created:%Y-%m-%d %H:%M} UTC", view.job)
            for view in views
        ]
        for line in aligned(("artifact", "size", "made", "by job"), rows, right=("size",)):
            typer.echo(line)
    return 0


@contextmanager
def artifact_views(cluster: Cluster) -> Generator[Callable[[str], ArtifactView], None, None]:
    """Gives what looks an artifact up by `[kind/]name[@version]`, whole: from the registry here, else from a server.

    Raises:
        YuanError: if there is neither; when called, if there is no such artifact.
    """
    client = client_of(cluster)
    if client is None:
        with artifact_store(cluster) as store:
            yield lambda name: _view_of_record(store, store.find(name), verify=False)
    else:
        with client:
            yield lambda name: _view_of_message(client.artifact(name))


def print_artifact_or_job(name: str, cluster_path: Path | None, *, as_json: bool, verify: bool) -> int:
    """Prints one artifact, or else the job of that id."""
    cluster = load_cluster(cluster_path).cluster
    client = client_of(cluster)
    try:
        if client is None:
            view = _read(name, cluster, verify=verify)
        elif verify:
            raise InputError("yuan show --verify reads the files themselves: use it where the store is")
        else:
            with client:
                view = _view_of_message(client.artifact(name))
    except ArtifactNotFound as error:
        return _print_job(name, cluster, error, as_json=as_json)
    except RpcRefused as error:
        if error.code != StatusCode.NOT_FOUND:
            raise
        return _print_job(name, cluster, error, as_json=as_json)
    if as_json:
        facts = {
            **view.facts(),
            "path": view.path,
            "made_from": dict(view.made_from),
            "used_by": list(view.used_by),
            "manifest": dict(view.metadata),
        }
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print(view, verified=verify)
    return 0


def _print(view: ArtifactView, *, verified: bool) -> None:
    files: list[dict[str, Any]] = view.metadata["files"]
    job: dict[str, Any] = view.metadata["job"]
    summary: dict[str, Any] = view.metadata.get("summary", {})
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    rows = [
        ("made", f"{view.created:%Y-%m-%d %H:%M:%S} UTC by job {view.job}, attempt {job['attempt']}"),
        ("path", view.path),
        ("size", f"{size_text(view.size_bytes)} in {count}" + (", every one as it was published" if verified else "")),
        ("digest", view.digest),
        *labelled("made from", [f"{name}: {source}" for name, source in view.made_from.items()]),
        *labelled("used by", list(view.used_by)),
        *labelled("summary", [f"{name}: {short_value(value)}" for name, value in summary.items()]),
    ]
    typer.echo(view.reference)
    for line in aligned((), rows):
        typer.echo(f"  {line}")
    typer.echo("files")
    for line in aligned((), [(file["path"], size_text(file["size_bytes"]), file["sha256"][:12]) for file in files]):
        typer.echo(f"  {line}")
    typer.echo("recipe")
    for line in dump_yaml(view.metadata["recipe"]).splitlines():
        typer.echo(f"  {line}")


def _print_job(name: str, cluster: Cluster, missing: InputError, *, as_json: bool) -> int:
    """Prints the job of an id; where there is none either, `missing` says it, unless it looks like a job's id."""
    if "/" in name or "@" in name:
        raise missing
    looks_so = _JOB_ID.search(name) is not None
    try:
        with JobClient(cluster) as client:
            reply = client.get(name)
    except YuanError as error:
        if looks_so or (isinstance(error, RpcRefused) and error.code == StatusCode.INVALID_ARGUMENT):
            raise
        raise missing from None
    return print_job(reply, as_json=as_json)


def artifact_folder(reference: str, cluster: Cluster) -> Path:
    """Returns where the files of a model artifact lie, as seen from this machine.

    Raises:
        YuanError: if there is no such artifact, or no registry and no server to ask.
    """
    name = f"{ArtifactKind.model}/{reference}"
    client = client_of(cluster)
    if client is None:
        return Path(_read(name, cluster, verify=False).path)
    with client:
        return Path(_view_of_message(client.artifact(name)).path)


def _read(name: str, cluster: Cluster, *, verify: bool) -> ArtifactView:
    with artifact_store(cluster) as store:
        return _view_of_record(store, store.find(name), verify=verify)


def _view_of_record(store: ArtifactStore, record: ArtifactRecord, *, verify: bool) -> ArtifactView:
    handle = store.open_record(record)
    if verify:
        store.verify(handle)
    sources = store.registry.inputs_of(record.id)
    return replace(
        _view(record),
        path=str(handle.path),
        metadata=handle.metadata,
        made_from={key: _reference(source) for key, source in sources.items()},
        used_by=[_reference(user) for user in store.registry.made_from(record.id)],
    )


def _view(record: ArtifactRecord) -> ArtifactView:
    return ArtifactView(_reference(record), record.size_bytes, record.digest, record.job_id, record.created)


def _view_of_message(message: jobs_pb2.Artifact) -> ArtifactView:
    metadata = plain_of(message.metadata)
    inputs: dict[str, dict[str, str]] = metadata.get("inputs", {})
    return ArtifactView(
        reference=f"{message.kind}/{message.name}@{message.version}",
        size_bytes=message.size_bytes,
        digest=message.digest,
        job=message.job_id,
        created=message.created_at.ToDatetime(UTC),
        path=message.location,
        metadata=metadata,
        made_from={name: source["artifact"] for name, source in inputs.items() if "artifact" in source},
        used_by=list(message.used_by),
    )


@contextmanager
def artifact_store(cluster: Cluster) -> Generator[ArtifactStore, None, None]:
    """Opens the store of a cluster whose registry is on this machine, and closes it."""
    store = ArtifactStore.open(Home.of(cluster))
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


def _reference(record: ArtifactRecord) -> str:
    return f"{record.kind}/{record.name}@{record.version}"


def size_text(size_bytes: int) -> str:
    """Returns `12.3 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
