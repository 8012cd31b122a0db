"""`yuan submit`, `yuan wait` and what else follows a job to its end: the bars and lines of the foreground, from afar.

The exit code is the job's: 0 SUCCEEDED, 1 FAILED, 130 CANCELLED, or interrupted here while the job goes on.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from yuan_cli.jobs import facts_of, made_by, resume_job
from yuan_events import Event, Interrupted, Message, Progress, WorkFailed, event_from_json
from yuan_jobs.client import JobClient
from yuan_jobs.messages import plain_of, state_of
from yuan_jobs.planning import check_order
from yuan_jobs.requests import request_of
from yuan_jobs.states import NOT_BEGUN, NOTHING, JobState
from yuan_jobs.terminal import TerminalSink
from yuan_manifest import ClusterManifest, Job, Step, load_cluster, load_job, split_overrides
from yuan_rpc.jobs.v1 import jobs_pb2
from yuan_stack.planning import steps_of
from yuan_stack.tables import aligned


@dataclass(frozen=True)
class Submission:
    """What `yuan submit` was given besides the manifest."""

    force: bool = False
    idempotency_key: str = ""
    watch: bool = False
    as_json: bool = False


def submit_manifest(path: Path, overrides: Sequence[str], cluster_path: Path | None, options: Submission) -> int:
    """Submits a manifest; prints the job's id, or with `watch` follows it to its end."""
    job_overrides, cluster_overrides = split_overrides(overrides)
    manifest = load_cluster(cluster_path, cluster_overrides)
    job = load_job(path, job_overrides)
    steps = steps_of(job, path, job_overrides, manifest)
    check_order(steps)
    return submit_loaded(job, steps, manifest, options)


def submit_loaded(job: Job, steps: Sequence[Step], manifest: ClusterManifest, options: Submission) -> int:
    """Submits what was loaded and checked, as `submit_manifest` does."""
    with JobClient(manifest.cluster, notice=_notice) as client:
        made, reused = client.submit(
            request_of(job, steps, manifest), force=options.force, idempotency_key=options.idempotency_key
        )
        if options.as_json:
            indent = None if options.watch else 2
            typer.echo(json.dumps({**facts_of(made), "reused": reused}, indent=indent, ensure_ascii=False))
        else:
            typer.echo(_submitted(made, reused=reused), err=not options.watch)
            if not options.watch:
                typer.echo(made.id)
        return follow(client, made.id, as_json=options.as_json) if options.watch else 0


def wait_for(job_id: str, cluster_path: Path | None, *, as_json: bool, quiet: bool = False) -> int:
    """Follows a job, from its first event on, to its end."""
    with JobClient(load_cluster(cluster_path).cluster, notice=_notice) as client:
        return follow(client, client.get(job_id).job.id, as_json=as_json, quiet=quiet)


def resume_and_follow(
    job_id: str, overrides: Sequence[str], cluster_path: Path | None, *, watch: bool, as_json: bool
) -> int:
    """Resumes a job; with `watch` follows it to its end."""
    job = resume_job(job_id, overrides, cluster_path)
    if as_json:
        typer.echo(json.dumps(facts_of(job), indent=None if watch else 2, ensure_ascii=False))
    else:
        typer.echo(f"{job.id}: on the queue again, attempt {job.attempt + 1}; follow it with: yuan wait {job.id}")
    return wait_for(job.id, cluster_path, as_json=as_json) if watch else 0


def follow(client: JobClient, job_id: str, *, as_json: bool = False, quiet: bool = False) -> int:
    """Shows a job's events until it has ended.

    Args:
        client: calls the stack.
        job_id: the whole id.
        as_json: write what comes as JSON lines.
        quiet: show nothing but how it ended.

    Returns:
        0: it SUCCEEDED.

    Raises:
        WorkFailed: it FAILED; with the reason.
        Interrupted: it was CANCELLED, or Ctrl-C came here; it goes on then, and the error says how to follow it.
    """
    last: jobs_pb2.Job | None = None
    try:
        steps = [child.step for child in client.get(job_id).children]
        with TerminalSink(sys.stdout) as sink:
            show = _Shown(sink, job_id, steps)
            for reply in client.watch(job_id):
                if reply.HasField("job") and reply.job_id == job_id:
                    last = reply.job
                if as_json:
                    typer.echo(json.dumps(_entry(reply), ensure_ascii=False))
                elif not quiet:
                    show(reply)
        if last is not None and not as_json and not quiet and steps:
            _print_steps(client.get(job_id).children)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{job_id} goes on; follow it with: yuan wait {job_id}, end it with: yuan cancel {job_id}"
        ) from None
    return _ended(job_id, last, silent=as_json)


def _ended(job_id: str, job: jobs_pb2.Job | None, *, silent: bool) -> int:
    if job is None:
        raise WorkFailed(f"{job_id}: its end was not told; see: yuan show {job_id}")
    match state_of(job.state):
        case JobState.SUCCEEDED:
            if not silent:
                typer.echo(f"{job.name}: {_made(job)}")
            return 0
        case JobState.CANCELLED:
            raise Interrupted(f"{job_id}: {job.reason or 'cancelled'}; it can go on with: yuan resume {job_id}")
        case _:
            raise WorkFailed(
                f"{job_id} failed: {job.reason}; once that is mended it goes on with: yuan resume {job_id}"
            )


@dataclass
class _Shown:
    """Shows the replies of a watch on a terminal.

    Attributes:
        sink: where.
        job_id: the job that is watched.
        steps: names of its steps, in order.
    """

    sink: TerminalSink
    job_id: str
    steps: Sequence[str]
    _begun: set[str] = field(default_factory=set[str])

    def __call__(self, reply: jobs_pb2.WatchResponse) -> None:
        """Shows one reply."""
        if reply.HasField("job"):
            self._show_job(reply.job)
            return
        try:
            event = event_from_json(reply.event_json)
        except ValueError:
            # Of a newer server.
            return
        self.sink.emit(_of_step(event, reply.step) if reply.job_id != self.job_id else event)

    def _show_job(self, job: jobs_pb2.Job) -> None:
        state = state_of(job.state)
        is_step = job.id != self.job_id
        name = job.step if is_step else job.name
        if is_step and state not in NOT_BEGUN and job.attempt:
            self._begin(job.step)
        if state == JobState.QUEUED and job.reason:
            self.sink.emit(Message(f"{name}: on the queue: {job.reason}"))
        elif state == JobState.SUCCEEDED and is_step:
            self.sink.emit(Message(f"{name}: {_made(job)}"))
        elif state == JobState.FAILED and is_step:
            self.sink.emit(Message(f"{name}: failed: {job.reason}", level="error"))

    def _begin(self, step: str) -> None:
        """Shows that a step has begun, before anything else of it."""
        if step in self.steps and step not in self._begun:
            self._begun.add(step)
            self.sink.emit(Message(f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step}"))


def _of_step(event: Event, step: str) -> Event:
    """Returns a step's event with the step's name in front, where it has words of its own."""
    match event:
        case Progress():
            return event if event.task == step else replace(event, task=f"{step}: {event.task}")
        case Message():
            return replace(event, text=f"{step}: {event.text}")
        case _:
            return event


def _made(job: jobs_pb2.Job) -> str:
    result = plain_of(job.result)
    made = made_by(job)
    if NOTHING in result:
        return f"nothing to do: {result[NOTHING]}"
    if "reused_job" in result:
        return f"done before, nothing has changed: {made}"
    return f"made {made}" if made else "done"


def _print_steps(children: Sequence[jobs_pb2.Job]) -> None:
    rows = [(child.step, state_of(child.state).value.lower(), _seconds(child), made_by(child)) for child in children]
    typer.echo("")
    for line in aligned(("step", "state", "seconds", "made"), rows):
        typer.echo(line)


def _seconds(job: jobs_pb2.Job) -> str:
    if not job.HasField("started_at") or not job.HasField("finished_at"):
        return ""
    return f"{(job.finished_at.ToNanoseconds() - job.started_at.ToNanoseconds()) / 1e9:.1f}"


def _submitted(job: jobs_pb2.Job, *, reused: bool) -> str:
    if not reused:
        return f"{job.name}: submitted as {job.id}; follow it with: yuan wait {job.id}"
    if state_of(job.state).ended:
        return f"{job.name}: done before as {job.id}, nothing has changed: {made_by(job)}"
    return f"{job.name}: {job.id} is the same job, {state_of(job.state).value}; follow it with: yuan wait {job.id}"


def _entry(reply: jobs_pb2.WatchResponse) -> dict[str, Any]:
    of = {"job_id": reply.job_id, "step": reply.step or None}
    if reply.HasField("job"):
        return {**of, "job": facts_of(reply.job, whole=state_of(reply.job.state).ended)}
    return {**of, "event": json.loads(reply.event_json)}


def _notice(line: str) -> None:
    typer.echo(line, err=True)
