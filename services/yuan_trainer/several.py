"""The run's side of several hosts: starts their agents, passes on what they say, and ends them all with the first.

How agents are started on other hosts is a `Starter`'s (`starters.py`); what they do is in `host.py`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from yuan_events import EventSink, Message
from yuan_trainer.launch_folder import Beacon, HostReader, HostReport, Launch, LaunchFolder, Watch, Word
from yuan_trainer.launcher import (
    CAUSE_SECONDS,
    END_GRACE_SECONDS,
    STOP_GRACE_SECONDS,
    Cause,
    Failure,
    stopped_after,
)

START_SECONDS = 300.0
"""How long the first host that is there waits for the last."""
LAST_WORDS_SECONDS = 5.0
"""How long a host is waited for whose agents' starter has ended."""
_POLL_SECONDS = 0.1


class Starter(Protocol):
    """Starts the agents of all hosts, with a tool of its own."""

    def start(self) -> None:
        """Starts them, or asks for that.

        Raises:
            InputError, WorkFailed: if that cannot be; one line.
        """
        ...

    def look(self) -> str:
        """Returns how things stand, in a few words, for a user who waits; "" where there is nothing to say."""
        ...

    def ended(self) -> str:
        """Returns how the agents ended, in a few words with the log; "" while they may run or come to run."""
        ...

    def end(self) -> None:
        """Ends what still runs or waits."""
        ...


@dataclass
class _Host:
    """A host as the run sees it."""

    number: int
    reader: HostReader
    watch: Watch
    name: str = ""
    last: HostReport | None = None

    @property
    def ended(self) -> bool:
        return self.last is not None and self.last.state != "ready"

    @property
    def label(self) -> str:
        return f"host {self.number}" + (f" ({self.name})" if self.name else "")


@dataclass
class _Hosts:
    """All of them."""

    launch: Launch
    starter: Starter
    sink: EventSink
    all: list[_Host]
    first_ready: float | None = None
    starter_ended: float | None = None
    told: str = ""
    lost: list[Failure] = field(default_factory=list[Failure])

    def read(self) -> None:
        """Takes what they have said."""
        for host in self.all:
            for said in host.reader.read_new():
                if isinstance(said, HostReport):
                    host.name, host.last = said.name, said
                    self.first_ready = self.first_ready or time.monotonic()
                else:
                    self.sink.emit(said)
            host.watch.look()

    @property
    def ready(self) -> bool:
        return all(host.last is not None for host in self.all)

    def failures(self) -> list[Failure]:
        """Returns what they say went wrong, and what their silence says."""
        said = [host.last.failure for host in self.all if host.last is not None]
        return [failure for failure in said if failure is not None] + self.lost

    def look_for_lost(self) -> None:
        """Notices hosts that are silent, that did not come, or whose starter has ended."""
        for host in self.all:
            if host.last is not None and not host.ended and host.watch.silent_seconds > self.launch.lease_seconds:
                self.lose(host, f"has not been heard of for {self.launch.lease_seconds} s")
                return
        now = time.monotonic()
        if (how := self.starter.ended()) and self.starter_ended is None:
            self.starter_ended = now
        if how and self.starter_ended is not None and now - self.starter_ended > LAST_WORDS_SECONDS:
            self._lose_first(how)
        elif not self.ready and self.first_ready is not None and now - self.first_ready > START_SECONDS:
            late = next(host for host in self.all if host.last is None)
            self.lose(late, f"did not come within {START_SECONDS:.0f} s of the first: {self.starter.look()}")

    def _lose_first(self, how: str) -> None:
        for host in self.all:
            if not host.ended:
                self.lose(host, f"ended without a word: {how}" if host.last else f"did not start: {how}")
                return

    def lose(self, host: _Host, what: str) -> None:
        """Notes that a host is gone, and how that was seen."""
        again = f"; the same command resumes from the last checkpoint (logs: {self.launch.logs})" if self.ready else ""
        self.lost.append(Failure(Cause.host, f"{host.label} {what}{again}"))

    def tell_waiting(self) -> None:
        """Says what is waited for, once for each thing."""
        there = sum(host.last is not None for host in self.all)
        text = self.starter.look()
        if there:
            text = f"{there} of {len(self.all)} hosts are there"
        if text and text != self.told and not self.ready:
            self.told = text
            self.sink.emit(Message(text))


def run_hosts(folder: LaunchFolder, starter: Starter, *, sink: EventSink, should_stop: Callable[[], bool]) -> None:
    """Runs the ranks of all hosts to their end.

    Args:
        folder: new, for this run alone.
        starter: of the agents.
        sink: takes the events of the ranks.
        should_stop: asked several times a second; once true the ranks are asked to save their state and end.

    Raises:
        Interrupted: if the run was stopped on request.
        InputError: if the input was wrong.
        WorkFailed: if a rank or a host failed; one line.
    """
    launch = folder.launch()
    readers = [
        _Host(number, HostReader(folder.events(number)), Watch(folder.alive(number))) for number in range(launch.hosts)
    ]
    hosts = _Hosts(launch, starter, sink, readers)
    with Beacon(folder.control, Word.wait) as control:
        try:
            starter.start()
            stopped = _follow(hosts, control, should_stop)
        finally:
            control.say(Word.end)
            _hear_out(hosts)
            starter.end()
    if failures := hosts.failures():
        raise min(failures, key=lambda failure: failure.cause).error()
    if stopped or any(host.last is not None and host.last.state == "stopped" for host in hosts.all):
        raise stopped_after(max((host.last.step for host in hosts.all if host.last is not None), default=0))


def _follow(hosts: _Hosts, control: Beacon, should_stop: Callable[[], bool]) -> bool:
    """Passes events on until every host has ended or one has failed; returns whether a stop cut it short."""
    stop_deadline: float | None = None
    going = False
    while True:
        hosts.read()
        hosts.look_for_lost()
        if hosts.failures():
            return False
        if all(host.ended for host in hosts.all):
            return False
        if stop_deadline is None and should_stop():
            if not going:
                return True  # nothing has begun, nothing is to be saved
            control.say(Word.stop)
            stop_deadline = time.monotonic() + STOP_GRACE_SECONDS + END_GRACE_SECONDS
        if stop_deadline is not None and time.monotonic() > stop_deadline:
            return True
        if not going:
            hosts.tell_waiting()
            if hosts.ready:
                control.say(Word.go)
                going = True
        time.sleep(_POLL_SECONDS)


def _hear_out(hosts: _Hosts) -> None:
    """Waits until every host that had begun has ended its ranks and said so, or is silent."""
    deadline = time.monotonic() + END_GRACE_SECONDS + LAST_WORDS_SECONDS
    while time.monotonic() < deadline:
        hosts.read()
        begun = [host for host in hosts.all if host.last is not None and not host.ended]
        # An agent moves its counter every second.
        silent = [host for host in begun if host.watch.silent_seconds > CAUSE_SECONDS + LAST_WORDS_SECONDS]
        if len(begun) == len(silent):
            if hosts.failures():
                for host in silent:
                    hosts.lose(host, "ended without a word")
            return
        time.sleep(_POLL_SECONDS)
