"""`yuan evaluate`: an evaluate job from arguments; on the stack's queue where one runs, else in the foreground.

`--list` and `--leaderboard` are questions to the evaluator: to its server where one runs, else to a process of it.
"""

import json
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from yuan_cli.following import follow
from yuan_cli.jobs import facts_of
from yuan_events import InputError
from yuan_jobs.client import JobClient
from yuan_jobs.processes import STOP_NOTICE, StopRequest
from yuan_jobs.references import Reference
from yuan_jobs.requests import request_of
from yuan_manifest import Cluster, ClusterManifest, Job, load_cluster, to_yaml
from yuan_manifest.interpolation import escaped
from yuan_manifest.loading import job_of_layers
from yuan_manifest.merging import Layers
from yuan_rpc import connect
from yuan_rpc.evaluator.v1 import evaluator_pb2, evaluator_pb2_grpc
from yuan_stack import run_manifest, run_service

_CONNECT_SECONDS = 2.0


def evaluate_model(
    model: str,
    inputs: Mapping[str, str | None],
    suite: Sequence[str],
    section: Mapping[str, object],
    overrides: Sequence[str],
    *,
    cluster_path: Path | None,
    report: str | None,
    flags: Mapping[str, bool],
) -> int:
    """Scores a model.

    Args:
        model: `[model/]NAME[@VERSION]`.
        inputs: the manifest's other `inputs`; None: not given.
        suite: what is measured.
        section: the manifest's `evaluate`; None: the default.
        overrides: `key=value` items put over all that.
        cluster_path: the cluster's file.
        report: name of the report; None: made of the model's.
        flags: `print_manifest`, `foreground`, `wait`, `force`, `json`.
    """
    reference = Reference.parse(model, "model")
    tree: dict[str, Any] = {
        "version": 1,
        "kind": "evaluate",
        "name": f"evaluate-{reference.name}"[:63],
        "inputs": {"model": model.removeprefix("model/")} | _given(inputs),
        "suite": list(suite),
        "evaluate": _given(section),
        "outputs": {"report": report or f"{reference.name}-{suite[0]}"[:63]},
    }
    manifest = load_cluster(cluster_path)
    layers = Layers()
    layers.put(escaped(tree), {})
    job = job_of_layers(layers, "yuan evaluate", overrides, manifest)
    if flags["print_manifest"]:
        typer.echo(to_yaml(job), nl=False)
        return 0
    if not flags["foreground"] and _listens(manifest.cluster):
        return _submit(job, manifest, flags)
    with tempfile.TemporaryDirectory(prefix="yuan-evaluate-") as folder:
        file = Path(folder) / "job.yaml"
        file.write_text(to_yaml(job), encoding="utf-8")
        return run_manifest(file, [], cluster_path, force=flags["force"])


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _listens(cluster: Cluster) -> bool:
    """Says whether an evaluator's server is there."""
    section = cluster.services.evaluator
    if section is None:
        return False
    try:
        with socket.create_connection((section.host, section.port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _submit(job: Job, manifest: ClusterManifest, flags: Mapping[str, bool]) -> int:
    with JobClient(manifest.cluster, notice=lambda line: typer.echo(line, err=True)) as client:
        # Asked first, so that a name that does not exist is bad input at once, and no failed job.
        client.artifact(f"model/{getattr(job, 'inputs').model}")  # noqa: B009 - an evaluate job has it
        made, _ = client.submit(request_of(job, [], manifest), force=flags["force"])
        if flags["json"]:
            typer.echo(json.dumps(facts_of(made), indent=None if flags["wait"] else 2, ensure_ascii=False))
        elif not flags["wait"]:
            typer.echo(f"{job.name}: submitted; follow it with: yuan wait {made.id}", err=True)
            typer.echo(made.id)
        return follow(client, made.id, as_json=flags["json"]) if flags["wait"] else 0


def list_tasks(*, as_json: bool) -> int:
    """Prints what a suite can name."""
    return _ask_process("tasks", ["--json"] if as_json else [])


def print_leaderboard(cluster_path: Path | None, *, as_json: bool) -> int:
    """Prints every evaluated model beside the published ones."""
    manifest = load_cluster(cluster_path)
    if not _listens(manifest.cluster):
        place = [] if cluster_path is None else ["-f", str(cluster_path)]
        return _ask_process("leaderboard", [*(["--json"] if as_json else []), *place])
    with connect("evaluator", manifest.cluster) as connection:
        stub: Any = connection.stub(evaluator_pb2_grpc.EvaluatorServiceStub)
        with connection.errors():
            rows = [_plain(row) for row in stub.GetLeaderboard(evaluator_pb2.GetLeaderboardRequest()).rows]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join(_lines(rows)))
    return 0


def _plain(row: evaluator_pb2.Row) -> dict[str, Any]:
    return {
        "model": row.model,
        "report": row.report,
        "how": row.how,
        "published": row.published,
        "scores": {
            score.task: {
                "value": score.value,
                "standard_error": score.standard_error if score.HasField("standard_error") else None,
                "items": score.items,
            }
            for score in row.scores
        },
    }


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    from yuan_stack.tables import aligned  # noqa: PLC0415 - only here

    tasks = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    table = [(row["model"], row["how"], *(_percent(row["scores"].get(name)) for name in tasks)) for row in rows]
    return list(aligned(("model", "how", *tasks), table))


def _percent(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    error = "" if score["standard_error"] is None else f" ± {100 * score['standard_error']:.1f}"
    return f"{100 * score['value']:.1f}{error}"


def _ask_process(command: str, arguments: Sequence[str]) -> int:
    with StopRequest(STOP_NOTICE, insistent=False) as stop:
        return run_service("evaluator", [command, *arguments], stop)


def folder_or_url(text: str | None) -> str | None:
    """Returns a folder's absolute path; a URL as it is."""
    if text is None or "://" in text:
        return text
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        # In a container's stack the path is one of the container's.
        if text.startswith("/"):
            return text
        raise InputError(f"--data {text}: no such folder")
    return str(path)
