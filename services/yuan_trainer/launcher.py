"""Starts the ranks of a run on this host, passes on what they say, and sees to it that none outlives the run.

Ranks are plain child processes with two pipes each (`link.py`): a launcher that puts a process of its own between
(torchrun's agent) would cut the pipes, and with them the promise that ranks end with their parent. With several
hosts the same is done on each of them by an agent (`host.py`).
"""

import os
import re
import select
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from yuan_events import AttemptLost, EventSink, InputError, Interrupted, WorkFailed, YuanError, event_from_json
from yuan_trainer.joining import Meeting, meeting_on_one_host
from yuan_trainer.link import (
    CONTROL_FD,
    EVENTS_FD,
    HEARTBEAT,
    LOST_PARENT_EXIT_CODE,
    STOP,
    RankReport,
    borne_silence,
    report_from_json,
)

HEARTBEAT_SECONDS = 2.0
STOP_GRACE_SECONDS = 120.0
END_GRACE_SECONDS = 10.0
CAUSE_SECONDS = 2.0
"""How long the rank that broke a connection is waited for, once another has said that it is broken."""

ALLOCATION = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=17179869184"
"""What glibc is told (`GLIBC_TUNABLES`) of ranks that compute on the processor: to keep what a step frees for the next
one, and to ask for large pages. Else every step has its activations' memory zeroed anew by the kernel, a page at a
time, which is a tenth of a step in bf16 (benchmarks/training.py)."""

_BROKEN_CONNECTION = re.compile(r"connection (closed|reset|refused)|broken pipe|NCCL|gloo", re.IGNORECASE)
"""In the words of a rank: it lost another one, and is not what went wrong."""


class Cause(IntEnum):
    """Why a run failed; of several reasons the smallest is told, the others followed from it."""

    input = 0
    signal = 1
    hung = 2
    silence = 3
    reason = 4
    host = 5
    code = 6
    connection = 7


@dataclass(frozen=True)
class Failure:
    """What went wrong, in one line."""

    cause: Cause
    text: str

    def error(self) -> YuanError:
        """Returns it as the error that ends the run."""
        # Somebody killed it, or the machine was out of memory: no fault of the job's, unless it happens again.
        lost = dict.fromkeys((Cause.signal, Cause.hung, Cause.silence), AttemptLost)
        kind = {Cause.input: InputError, **lost}.get(self.cause, WorkFailed)
        return kind(self.text)


@dataclass(frozen=True)
class Share:
    """The ranks of one host, of all ranks of a run. first: the first one's number. count: how many. ranks: of all."""

    first: int
    count: int
    ranks: int


@dataclass(frozen=True)
class Ending:
    """How the ranks of a host ended. step: steps finished, where they stopped on request."""

    failure: Failure | None = None
    stopped: bool = False
    step: int = 0


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
    visible_devices: str = "",
    logs: Path,
    sink: EventSink,
    should_stop: Callable[[], bool],
) -> None:
    """Runs all ranks of a specification to their end.

    Args:
        specification: file that `Specification.write` wrote.
        ranks: processes to start.
        device: `cpu` or `cuda`.
        visible_devices: what the ranks see of CUDA's devices (CUDA_VISIBLE_DEVICES); "": as this process does.
        logs: folder for each rank's output, `rank-N.log`; appended to.
        sink: takes the events of the ranks.
        should_stop: asked several times a second; once true the ranks are asked to save their state and end.

    Raises:
        Interrupted: if the run was stopped on request.
        InputError: if a rank found that the input was wrong.
        WorkFailed: if a rank failed or died; one line, with the log that tells more.
    """
    with meeting_on_one_host() as meeting:
        share = Share(0, ranks, ranks)
        ending = run_share(
            specification,
            share,
            meeting,
            device=device,
            visible_devices=visible_devices,
            logs=logs,
            sink=sink,
            should_stop=should_stop,
        )
    if ending.failure is not None:
        raise ending.failure.error()
    if ending.stopped:
        raise stopped_after(ending.step)


def stopped_after(step: int) -> Interrupted:
    """Returns what a run that was stopped ends with."""
    return Interrupted(f"stopped after step {step}; the same command goes on from there")


def run_share(
    specification: Path,
    share: Share,
    meeting: Meeting,
    *,
    device: str,
    visible_devices: str,
    logs: Path,
    sink: EventSink,
    should_stop: Callable[[], bool],
) -> Ending:
    """Runs one host's ranks to their end, and returns how they ended; see `run_ranks`.

    Whatever `should_stop` or the sink raises ends the ranks at once.
    """
    logs.mkdir(parents=True, exist_ok=True)
    shown = {"CUDA_VISIBLE_DEVICES": visible_devices} if visible_devices else {}
    environment = {**computing_environment(device, share.count), **os.environ, **meeting.environment, **shown}
    running: list[_Rank] = []
    try:
        for number in range(share.first, share.first + share.count):
            running.append(
                _start(specification, number, share, environment, meeting.descriptors, device=device, logs=logs)
            )
        stopped = _follow(running, sink, should_stop)
        failure = _settled_failure(running, sink)
        step = max((report.step for rank in running for report in rank.reports), default=0)
        return Ending(failure, stopped, step)
    finally:
        _end(running)


def _start(
    specification: Path,
    number: int,
    share: Share,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    *,
    device: str,
    logs: Path,
) -> _Rank:
    control_read, control_write = os.pipe()
    events_read, events_write = os.pipe()
    environment = {
        **environment,
        CONTROL_FD: str(control_read),
        EVENTS_FD: str(events_write),
        "RANK": str(number),
        "LOCAL_RANK": str(number - share.first),
        "WORLD_SIZE": str(share.ranks),
        "LOCAL_SIZE": str(share.count),
        "DS_ACCELERATOR": device,
    }
    log = logs / f"rank-{number}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "yuan_trainer.rank", str(specification)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(control_read, events_write, *descriptors),
        )
    os.close(control_read)
    os.close(events_write)
    os.set_blocking(control_write, False)
    return _Rank(number, process, control_write, events_read, log)


def computing_environment(device: str, ranks: int) -> dict[str, str]:
    """Returns what makes ranks compute well, unless a user's environment says otherwise.

    Args:
        device: `cpu` or `cuda`.
        ranks: on this host, which share its processor.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))}
    return environment | ({"GLIBC_TUNABLES": ALLOCATION} if device == "cpu" else {})


def _follow(running: list[_Rank], sink: EventSink, should_stop: Callable[[], bool]) -> bool:
    """Passes events on until every rank has ended or one has failed; returns whether a stop was asked for."""
    stop_deadline: float | None = None
    next_heartbeat = 0.0
    interval = min(HEARTBEAT_SECONDS, borne_silence() / 4)  # of a short lease several fit, or a busy machine ends it
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
                next_heartbeat = now + interval
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


def _settled_failure(running: list[_Rank], sink: EventSink) -> Failure | None:
    """Returns what went wrong; where that is a broken connection, what broke it may be seen a moment later."""
    deadline = time.monotonic() + CAUSE_SECONDS
    while (failure := _failure(running)) is not None:
        if failure.cause != Cause.connection or time.monotonic() > deadline:
            break
        time.sleep(0.05)
        by_events = {rank.events_fd: rank for rank in running}
        for events_fd in select.select(by_events, [], [], 0.0)[0]:
            _read(by_events[events_fd], sink)
    return failure


def _failure(running: list[_Rank]) -> Failure | None:
    found = [failure for rank in running if (failure := _failure_of(rank)) is not None]
    return min(found, key=lambda failure: failure.cause, default=None)


def _failure_of(rank: _Rank) -> Failure | None:
    said = next((report for report in rank.reports if report.state == "failed"), None)
    code = rank.process.poll() or 0
    if said is not None and said.bad_input:
        return Failure(Cause.input, said.reason)
    if code < 0:
        name = signal.Signals(-code).name
        text = f"was ended by {name}; the same command resumes from the last checkpoint"
        return Failure(Cause.signal, f"rank {rank.number} {text} (log: {rank.log})")
    if said is not None and said.hung:
        return Failure(Cause.hung, f"rank {rank.number}: {said.reason} (log: {rank.log})")
    if code == LOST_PARENT_EXIT_CODE:
        text = f"heard nothing of its parent for {borne_silence()} s and ended itself"
        return Failure(Cause.silence, f"rank {rank.number} {text} (log: {rank.log})")
    if said is not None:
        cause = Cause.connection if _BROKEN_CONNECTION.search(said.reason) else Cause.reason
        return Failure(cause, f"rank {rank.number} failed: {said.reason} (log: {rank.log})")
    return Failure(Cause.code, f"rank {rank.number} ended with code {code} (log: {rank.log})") if code else None


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
