"""`yuan diff JOB JOB`: in what two jobs differ: what was to be done, on what, and what came out of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from yuan_cli.facts import short_value
from yuan_cli.jobs import facts_of
from yuan_events import Metrics, event_from_json
from yuan_jobs.client import JobClient
from yuan_jobs.states import JobState
from yuan_manifest import load_cluster
from yuan_manifest.values import format_path, is_list, is_section
from yuan_stack.tables import aligned

_ABSENT = object()


@dataclass(frozen=True)
class Difference:
    """A value that two jobs do not share; `_ABSENT` where one has none."""

    key: str
    first: Any
    second: Any

    def row(self) -> tuple[str, str, str]:
        """Returns it for a table; the third cell has the change of numbers, too."""
        first, second = ("–" if value is _ABSENT else short_value(value) for value in (self.first, self.second))
        change = _change(self.first, self.second)
        return (self.key, first, second + (f"  ({change})" if change else ""))

    def facts(self) -> dict[str, Any]:
        """Returns it for programs; null where a job has no such value."""
        first, second = (None if value is _ABSENT else value for value in (self.first, self.second))
        return {"key": self.key, "first": first, "second": second}


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


def differences(first: Any, second: Any) -> Iterator[Difference]:
    """Yields what two trees do not share, by key path, in the order of the first."""
    ours, theirs = dict(_leaves(first, ())), dict(_leaves(second, ()))
    for key in dict.fromkeys([*ours, *theirs]):
        mine, other = ours.get(key, _ABSENT), theirs.get(key, _ABSENT)
        if mine is _ABSENT or other is _ABSENT or mine != other:
            yield Difference(key, mine, other)


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    if is_section(value) and value:
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    elif is_list(value) and any(is_section(item) for item in value):
        for index, child in enumerate(value):
            yield from _leaves(child, (*path, index))
    elif path:
        yield format_path(path), value


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


def _change(first: Any, second: Any) -> str:
    numbers = [value for value in (first, second) if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < 2:
        return ""
    change = numbers[1] - numbers[0]
    share = f", {change / abs(numbers[0]):+.1%}" if numbers[0] else ""
    return f"{change:+.4g}{share}"
