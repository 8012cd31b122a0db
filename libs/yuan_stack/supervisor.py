"""The supervisor of a stack: brings broker and processes up, keeps them up, follows another manifest, ends them.

It is a process of its own (`__main__.py`), whether `yuan up` waits in front of it or not. Others talk to it by files
and signals: SIGUSR1, follow the manifest in `cluster.yaml` anew; SIGTERM, end everything (again: faster; a third time:
at once). What it does stands in `state.json`.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from types import FrameType

from yuan_events import InputError
from yuan_jobs.processes import StopRequest
from yuan_manifest import load_cluster
from yuan_rpc import VERSION, Security, security_of
from yuan_stack.broker import HOST, EmbeddedBroker
from yuan_stack.folder import StackFolder, digest, write_private
from yuan_stack.managed import LONGEST_WAIT_S, PEACE_S, Managed
from yuan_stack.processes import ProcessPlan, Role, StackPlan, plan_of
from yuan_stack.state import Phase, ProcessRecord, ProcessState, StackState

_TURN_S = 0.1


class Supervisor:
    """One home's stack, from its first process to its last."""

    def __init__(self, folder: StackFolder, companion: int | None = None) -> None:
        """Describes it; nothing is started.

        Args:
            folder: of the home; its `cluster.yaml` is what is followed.
            companion: a parent process with which the stack ends; None: it goes on without.
        """
        self._folder = folder
        self._companion = companion
        self._plan = StackPlan(embedded_broker=False, processes=())
        self._security = Security()
        self._manifest = ""
        self._managed: dict[str, Managed] = {}
        self._broker: _WatchedBroker | None = None
        self._told = ""
        self._changed = False

    def run(self, stop: StopRequest) -> None:
        """Runs the stack until it is asked to end; then nothing of it is left but logs and the broker's data."""
        signal.signal(signal.SIGUSR1, self._on_change)
        with ThreadPoolExecutor(max_workers=4) as executor:
            self._follow(executor)
            while not self._wants_end(stop):
                if self._changed:
                    self._changed = False
                    self._follow(executor)
                self._turn(executor)
                self._tell(Phase.running)
                time.sleep(_TURN_S)
            self._end(stop)
        self._folder.clear()

    def _on_change(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._changed = True

    def _wants_end(self, stop: StopRequest) -> bool:
        return stop.requested() or (self._companion is not None and os.getppid() != self._companion)

    def _follow(self, executor: ThreadPoolExecutor) -> None:
        """Takes over the manifest: ends what changed or is not in it any more, and plans what is to be started."""
        text = self._folder.cluster.read_text(encoding="utf-8")
        manifest = load_cluster(self._folder.cluster)
        self._plan, self._security = plan_of(manifest), security_of(manifest.cluster.security)
        self._manifest = digest(text)
        if self._plan.embedded_broker and self._broker is None:
            self._broker = _WatchedBroker(self._folder)
        for managed in self._managed.values():
            planned = self._plan.find(managed.plan.name)
            if planned is None or planned.settings != managed.plan.settings:
                managed.ask_to_end()
        self._add_missing(executor)

    def _add_missing(self, executor: ThreadPoolExecutor) -> None:
        """Puts planned processes in the places that are free, in the plan's order."""
        for name in [name for name, managed in self._managed.items() if managed.state is ProcessState.stopped]:
            del self._managed[name]
        for plan in self._plan.processes:
            if plan.name not in self._managed:
                self._managed[plan.name] = Managed(plan, self._folder, self._security, executor)
        order = {plan.name: place for place, plan in enumerate(self._plan.processes)}
        self._managed = dict(sorted(self._managed.items(), key=lambda item: order.get(item[0], len(order))))

    def _turn(self, executor: ThreadPoolExecutor) -> None:
        if self._broker is not None:
            if self._plan.embedded_broker or any(managed.retired for managed in self._managed.values()):
                self._broker.poll()
            else:
                self._broker.end()
                self._broker = None
        for managed in self._managed.values():
            managed.poll(may_start=self._may_start(managed.plan))
        if any(managed.state is ProcessState.stopped for managed in self._managed.values()):
            self._add_missing(executor)

    def _may_start(self, plan: ProcessPlan) -> bool:
        """Whether the broker answers, and no process that is on its way out holds one of its ports."""
        if self._plan.embedded_broker and (self._broker is None or self._broker.state is not ProcessState.up):
            return False
        leaving = (managed for managed in self._managed.values() if managed.retired and managed.is_alive)
        return not any(managed.plan.ports & plan.ports for managed in leaving)

    def _end(self, stop: StopRequest) -> None:
        """Ends workers, which give their jobs back, then servers, then the broker."""
        for role in (Role.worker, Role.server):
            for managed in self._managed.values():
                if managed.plan.role is role:
                    managed.ask_to_end()
            while any(managed.is_alive and managed.plan.role is role for managed in self._managed.values()):
                for managed in self._managed.values():
                    if stop.count > 1:
                        managed.ask_to_end(min(stop.count, 3))
                    managed.poll(may_start=False)
                self._tell(Phase.stopping)
                time.sleep(_TURN_S)
        self._tell(Phase.stopping)
        if self._broker is not None:
            self._broker.end()

    def _tell(self, phase: Phase) -> None:
        state = StackState(
            version=VERSION,
            pid=os.getpid(),
            phase=phase,
            manifest=self._manifest,
            broker=self._broker.record() if self._broker is not None else None,
            processes=tuple(managed.record() for managed in self._managed.values()),
        )
        text = state.to_json()
        if text != self._told:
            with suppress(OSError):  # the disk is full: the next turn tries again
                write_private(self._folder.state, text)
                self._told = text


class _WatchedBroker:
    """The embedded broker, started again when it ends unasked."""

    def __init__(self, folder: StackFolder) -> None:
        self._broker = EmbeddedBroker(folder)
        self._started = time.monotonic()
        self._retry_at = 0.0
        self._record = ProcessRecord("broker", "broker", Role.server, ProcessState.waiting, since=time.time())
        if self._broker.take_over():
            self._becomes(ProcessState.up)

    @property
    def state(self) -> ProcessState:
        """How it stands."""
        return self._record.state

    def record(self) -> ProcessRecord:
        """Returns what is told about it."""
        return self._record

    def poll(self) -> None:
        """Takes notice of what happened since the last time."""
        now = time.monotonic()
        if self.state is ProcessState.waiting:
            if now >= self._retry_at:
                self._start(now)
            return
        code = self._broker.exit_code()
        if code is not None:
            ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._failed(now, code, ending, self._broker.last_line())
        elif self.state is ProcessState.starting and self._broker.answers():
            self._becomes(ProcessState.up)

    def end(self) -> None:
        """Ends it."""
        self._broker.end()

    def _start(self, now: float) -> None:
        self._started = now
        try:
            self._broker.start()
        except InputError as error:
            self._failed(now, error.exit_code, "not started", str(error))
        except OSError as error:
            self._failed(now, 1, "not started", (error.strerror or str(error)).lower())
        else:
            self._becomes(ProcessState.starting)

    def _becomes(self, state: ProcessState) -> None:
        address = f"{HOST}:{self._broker.url.rpartition(':')[2].removesuffix('/0')}"
        since = self._record.since if self.state is ProcessState.starting else time.time()
        self._record = replace(self._record, state=state, pid=self._broker.pid, address=address, since=since)

    def _failed(self, now: float, code: int, ending: str, line: str) -> None:
        failures = 1 if now - self._started > PEACE_S else self._record.failures + 1
        wait = min(LONGEST_WAIT_S, 2.0 ** (failures - 1))
        self._retry_at = now + wait
        self._record = replace(
            self._record,
            state=ProcessState.waiting,
            pid=None,
            since=time.time(),
            restarts=self._record.restarts + 1,
            failures=failures,
            retry_seconds=wait,
            ending=ending,
            exit_code=code,
            last_line=line,
        )
