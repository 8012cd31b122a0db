"""Starts the ranks of a run on this host, passes on what they say, and sees to it that none outlives the run.

Ranks are plain child processes with two pipes each (`link.py`): a launcher that puts a process of its own between
(torchrun's agent) would cut the pipes, and with them the promise that ranks end with their parent. They find each
other through a file in a private folder, so that no port is taken and two runs never meet.
"""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from yuan_events import EventSink, InputError, Interrupted, WorkFailed, event_from_json
from yuan_trainer.link import CONTROL_FD, EVENTS_FD, HEARTBEAT, STOP, RankReport, report_from_json

HEARTBEAT_SECONDS = 2.0
STOP_GRACE_SECONDS = 120.0
END_GRACE_SECONDS = 10.0


@dataclass
class _Rank:
    """A running rank as its parent sees it."""

    number: int
    process: subprocess.Popen[bytes]
    control_fd: int
    events_fd: int
    log: Path
    unread: bytes = b""
    reports: list[RankReport] = field(default_factory=list[RankReport])


def run_ranks(
    specification: Path,
    ranks: int,
    *,
    device: str,
    logs: Path,
    sink: EventSink,
    should_stop: Callable[[], bool],
) -> None:
    """Runs all ranks of a specification to their end.

    Args:
        specification: file that `Specification.write` wrote.
        ranks: processes to start.
        device: `cpu` or `cuda`.
        logs: folder for each rank's output, `rank-N.log`; appended to.
        sink: takes the events of the ranks.
        should_stop: asked several times a second; once true the ranks are asked to save their state and end.

    Raises:
        Interrupted: if the run was stopped on request.
        InputError: if a rank found that the input was wrong.
        WorkFailed: if a rank failed or died; one line, with the log that tells more.
    """
    logs.mkdir(parents=True, exist_ok=True)
    meeting = Path(tempfile.mkdtemp(prefix="yuan-ranks-"))
    running: list[_Rank] = []
    try:
        for number in range(ranks):
            running.append(_start(specification, number, ranks, device=device, logs=logs, meeting=meeting))
        stopped = _follow(running, sink, should_stop)
        _raise_failure(running)
        if stopped:
            step = max((report.step for rank in running for report in rank.reports), default=0)
            raise Interrupted(f"stopped after step {step}; the same command goes on from there")
    finally:
        _end(running)
        shutil.rmtree(meeting, ignore_errors=True)


def _start(specification: Path, number: int, ranks: int, *, device: str, logs: Path, meeting: Path) -> _Rank:
    control_read, control_write = os.pipe()
    events_read, events_write = os.pipe()
    threads = max(1, (os.cpu_count() or 1) // ranks)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        CONTROL_FD: str(control_read),
        EVENTS_FD: str(events_write),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(ranks),
        "LOCAL_SIZE": str(ranks),
        "YUAN_MEETING_FILE": str(meeting / "store"),
        "DS_ACCELERATOR": device,
        # One host: ranks talk over the loopback interface and are reachable from nowhere else.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    log = logs / f"rank-{number}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "yuan_trainer.rank", str(specification)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(control_read, events_write),
        )
    os.close(control_read)
    os.close(events_write)
    os.set_blocking(control_write, False)
    return _Rank(number, process, control_write, events_read, log)


def _follow(running: list[_Rank], sink: EventSink, should_stop: Callable[[], bool]) -> bool:
    """Passes events on until every rank has ended or one has failed; returns whether a stop was asked for."""
    stop_deadline: float | None = None
    next_heartbeat = 0.0
    with selectors.DefaultSelector() as selector:
        for rank in running:
            selector.register(rank.events_fd, selectors.EVENT_READ, rank)
        while selector.get_map():
            for key, _ in selector.select(timeout=0.2):
                rank: _Rank = key.data
                if not _read(rank, sink):
                    selector.unregister(rank.events_fd)
            if any(_failed(rank) for rank in running):
                return stop_deadline is not None
            now = time.monotonic()
            if stop_deadline is None and should_stop():
                training = any(report.state == "training" for report in running[0].reports)
                # Before the loop has begun there is nothing to save.
                stop_deadline = now + (STOP_GRACE_SECONDS if training else 0.0)
                for rank in running:
                    _send(rank, STOP)
            if stop_deadline is not None and now > stop_deadline:
                return True
            if now >= next_heartbeat:
                next_heartbeat = now + HEARTBEAT_SECONDS
                for rank in running:
                    _send(rank, HEARTBEAT)
    for rank in running:
        rank.process.wait()
    return stop_deadline is not None and any(report.state == "stopped" for rank in running for report in rank.reports)


def _read(rank: _Rank, sink: EventSink) -> bool:
    """Takes what a rank has sent; returns whether it may send more."""
    data = os.read(rank.events_fd, 65536)
    *lines, rank.unread = (rank.unread + data).split(b"\n")
    for line in lines:
        text = line.decode("utf-8")
        report = report_from_json(text)
        if report is None:
            sink.emit(event_from_json(text))
        else:
            rank.reports.append(report)
    return bool(data)


def _send(rank: _Rank, word: bytes) -> None:
    try:
        os.write(rank.control_fd, word)
    except (BrokenPipeError, BlockingIOError):
        # The rank has ended (its exit code tells why), or it has stopped reading: then its silence is its own end.
        return


def _failed(rank: _Rank) -> bool:
    return rank.process.poll() not in (None, 0) or any(report.state == "failed" for report in rank.reports)


def _raise_failure(running: list[_Rank]) -> None:
    # A rank that says why comes before its peers, which only saw a connection break.
    reasons = [(rank, report) for rank in running for report in rank.reports if report.state == "failed"]
    bad_input = [report for _, report in reasons if report.bad_input]
    if bad_input:
        raise InputError(bad_input[0].reason)
    dead = [rank for rank in running if (rank.process.poll() or 0) < 0]
    if dead:
        code = -(dead[0].process.returncode or 0)
        raise WorkFailed(
            f"rank {dead[0].number} was ended by {signal.Signals(code).name}; "
            f"the same command resumes from the last checkpoint (log: {dead[0].log})"
        )
    if reasons:
        rank, report = reasons[0]
        raise WorkFailed(f"rank {rank.number} failed: {report.reason} (log: {rank.log})")
    silent = [rank for rank in running if rank.process.poll() not in (None, 0)]
    if silent:
        rank = silent[0]
        raise WorkFailed(f"rank {rank.number} ended with code {rank.process.returncode} (log: {rank.log})")


def _end(running: list[_Rank]) -> None:
    for rank in running:
        if rank.process.poll() is None:
            rank.process.terminate()
    deadline = time.monotonic() + END_GRACE_SECONDS
    for rank in running:
        try:
            rank.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.process.kill()
            rank.process.wait()
        os.close(rank.control_fd)
        os.close(rank.events_fd)
