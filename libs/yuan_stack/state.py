"""What a supervisor tells about its stack, as it stands in `state.json`."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from yuan_stack.processes import Role


class Phase(StrEnum):
    """What a stack as a whole is at."""

    running = "running"
    stopping = "stopping"


class ProcessState(StrEnum):
    """How a process stands.

    starting: it runs and has not said yet that it is ready. up: it serves, or waits for jobs. silent: a server that
    was up runs and answers no more. waiting: it ended and is started again, or its turn has not come. stopping: it was
    asked to end. stopped: it has ended and stays so.
    """

    starting = "starting"
    up = "up"
    silent = "silent"
    waiting = "waiting"
    stopping = "stopping"
    stopped = "stopped"


@dataclass(frozen=True)
class ProcessRecord:
    """One process.

    Attributes:
        name: `data-server`.
        service: `data`.
        role: server or worker.
        state: how it stands.
        address: where a server is reached; empty for a worker.
        pid: of the process; None while there is none.
        since: when it was last started or has ended, in seconds since 1970.
        restarts: how often it ended unasked and was started again.
        failures: how often it did so without a minute of peace in between.
        retry_seconds: how long it waits before it is started again.
        ending: how it last ended unasked: `exit code 1`, `SIGKILL`; empty if it never did.
        exit_code: the number of that; negative for a signal.
        last_line: of its log, from before that ending.
        settings: what it depends on in the manifest, see `processes.py`.
    """

    name: str
    service: str
    role: Role
    state: ProcessState
    address: str = ""
    pid: int | None = None
    since: float = 0.0
    restarts: int = 0
    failures: int = 0
    retry_seconds: float = 0.0
    ending: str = ""
    exit_code: int = 0
    last_line: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def is_failing(self) -> bool:
        """Whether it ended unasked and has not come up since."""
        return self.failures > 0 and self.state in {ProcessState.waiting, ProcessState.starting}


@dataclass(frozen=True)
class StackState:
    """A stack that runs.

    Attributes:
        version: of the supervisor's program.
        pid: of the supervisor.
        phase: what the stack is at.
        manifest: digest of the manifest that it follows.
        broker: the embedded Valkey as a process; None where the broker is somebody else's.
        processes: of the services.
    """

    version: str
    pid: int
    phase: Phase
    manifest: str
    broker: ProcessRecord | None
    processes: tuple[ProcessRecord, ...]

    @property
    def all(self) -> tuple[ProcessRecord, ...]:
        """The broker, where it is ours, and the processes."""
        return (self.broker, *self.processes) if self.broker is not None else self.processes

    @property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """Settings by the name of the process."""
        return {process.name: process.settings for process in self.processes}

    def to_json(self) -> str:
        """Returns it as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError, TypeError, KeyError: if it is something else.
        """
        tree: dict[str, Any] = json.loads(text)
        tree["phase"] = Phase(tree["phase"])
        tree["broker"] = None if tree["broker"] is None else _process(tree["broker"])
        tree["processes"] = tuple(_process(row) for row in tree["processes"])
        return cls(**tree)


def _process(row: dict[str, Any]) -> ProcessRecord:
    row["role"], row["state"] = Role(row["role"]), ProcessState(row["state"])
    return ProcessRecord(**row)
