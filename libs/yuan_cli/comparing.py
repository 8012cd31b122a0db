"""`yuan diff JOB JOB`: in what two jobs differ: what was to be done, on what, and what came out of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from yuan_cli.jobs import facts_of
from yuan_events import Metrics, event_from_json
from yuan_jobs.client import JobClient
from yuan_jobs.differences import differences
from yuan_jobs.states import JobState
from yuan_manifest import load_cluster
from yuan_stack.tables import aligned


def print_difference(first: str, second: str, cluster: Path | None, *, as_json: bool) -> int:
    """Prints in what two jobs differ; 0 also where they do not."""
    with JobClient(load_cluster(cluster).cluster) as client:
        jobs = [facts_of(client.get(job_id).job) for job_id in (first, second)]
        metrics = [_last_metrics(client, job) for job in jobs]
    one, other = jobs
    parts = {part: list(differences(one[part] or {}, other[part] or {})) for part in ("recipe", "topology", "result")}
    parts["metrics"] = list(differences(*metrics))
    names = [job["id"] for job in jobs]
    if as_json:
        shown = {part: [difference.facts() for difference in found] for part, found in parts.items()}
        typer.echo(json.dumps({"first": names[0], "second": names[1], **shown}, indent=2, ensure_ascii=False))
        return 0
    if not any(parts.values()):
        typer.echo(f"{names[0]} and {names[1]} differ in nothing")
        return 0
    for part, found in parts.items():
        if found:
            typer.echo(part)
            for line in aligned(("key", *names), [difference.row() for difference in found], right=()):
                typer.echo(f"  {line}")
    return 0


def _last_metrics(client: JobClient, job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the last value of each metric that a job told; of one that runs, nothing is waited for."""
    last: dict[str, Any] = {}
    if not JobState(job["state"]).ended:
        return last
    for reply in client.watch(job["id"]):
        if not reply.HasField("job") and reply.job_id == job["id"]:
            try:
                event = event_from_json(reply.event_json)
            except ValueError:  # of a newer server
                continue
            if isinstance(event, Metrics):
                last |= {"step": event.step, **event.values}
    return last
