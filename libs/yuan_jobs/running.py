"""`python -m yuan_<service> run`: manifest and cluster, the home's lock, the job, with the terminal as its sink."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from yuan_events import EventSink, InputError, Message, Text
from yuan_jobs.arguments import ArgumentParser
from yuan_jobs.attempt import Outcome
from yuan_jobs.context import Work
from yuan_jobs.execution import execute
from yuan_jobs.home import Home, HomeLock
from yuan_jobs.journal import read_journal
from yuan_jobs.processes import STOP_NOTICE, StopRequest
from yuan_jobs.terminal import JsonLinesSink, TerminalSink
from yuan_manifest import Kind, check_run, load_cluster, load_job, resolve_topology, split_overrides


def run_job(service: str, works: Mapping[Kind, Work[Any]], arguments: Sequence[str]) -> int:
    """Runs one job to its end.

    Args:
        service: the service's name.
        works: how each kind of job that it does is done.
        arguments: those after `run`.

    Returns:
        0.

    Raises:
        YuanError: what ended it.
    """
    path, overrides, options = _parsed(service, arguments)
    notice = "" if options.outcome else STOP_NOTICE
    with StopRequest(notice) as stop, JsonLinesSink(sys.stdout) if options.json else TerminalSink(sys.stdout) as sink:
        job_overrides, cluster_overrides = split_overrides(overrides)
        manifest = load_cluster(options.cluster, cluster_overrides)
        job = load_job(path, job_overrides)
        if job.kind not in works:
            raise InputError(f"{path}: kind {job.kind} is not done by yuan_{service}, but {' and '.join(works)}")
        topology = resolve_topology(job, manifest)
        check_run(job, topology)
        with HomeLock.acquire(Home.of(manifest.cluster), job.name):
            work = works[job.kind]
            outcome = execute(
                job, topology, manifest.cluster, work, sink, force=options.force, should_stop=stop.requested
            )
        sink.close()
        what = outcome.artifact.reference if outcome.artifact else outcome.nothing or str(outcome.path)
        if options.outcome:
            nothing = bool(outcome.nothing)
            _write_outcome(options.outcome, what, reused=outcome.reused, nothing=nothing, job_id=outcome.job_id)
        if outcome.reused:
            tell_again(Home.of(manifest.cluster), outcome, sink)
            sink.emit(Message(f"{job.name}: done before, nothing has changed: {what} ({outcome.path})"))
        elif outcome.nothing:
            sink.emit(Message(f"{job.name}: nothing to do: {outcome.nothing}"))
        else:
            sink.emit(Message(f"{job.name}: made {what} ({outcome.path})"))
    return 0


def tell_again(home: Home, outcome: Outcome, sink: EventSink) -> None:
    """Shows what a job that was done before had said and written, without its progress."""
    journal = home.attempt_folder(outcome.job_id, outcome.attempt) / "events.jsonl"
    with suppress(OSError):  # a user may clear run states away; the artifact is what counts
        for _, event in read_journal(journal):
            if isinstance(event, Message | Text):
                sink.emit(event)


def _parsed(service: str, arguments: Sequence[str]) -> tuple[str, list[str], argparse.Namespace]:
    """Returns the manifest, the overrides and the options."""
    parser = ArgumentParser(prog=f"python -m yuan_{service} run", allow_abbrev=False)
    parser.add_argument("given", nargs="*", metavar="MANIFEST [key=value]", help="the job's file; values put over it")
    parser.add_argument(
        "-f", "--cluster", help="the cluster's file; default: YUAN_CLUSTER, configs/clusters/local.yaml"
    )
    parser.add_argument("--force", action="store_true", help="do it anew, even if an identical job is done")
    parser.add_argument("--json", action="store_true", help="write events to stdout as JSON lines")
    parser.add_argument("--outcome", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(list(arguments))
    if not options.given:
        raise InputError(f"{parser.prog}: name a manifest; see {parser.prog} --help")
    return options.given[0], options.given[1:], options


def _write_outcome(path: Path, result: str, *, reused: bool, nothing: bool, job_id: str) -> None:
    """Tells the parent how the job ended, in a file that is there whole or (on a full disk) not at all."""
    part = path.with_name(path.name + ".part")
    with suppress(OSError):
        told = {"result": result, "reused": reused, "nothing": nothing, "job_id": job_id}
        part.write_text(json.dumps(told), encoding="utf-8")
        part.rename(path)
