"""What a program may use, and what became of it; both cross a socket as JSON."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Limits:
    """What one program, with all processes that it starts, may use.

    Attributes:
        wall_seconds: from its start to its end.
        cpu_seconds: of each of its processes.
        memory_mib: address space of each process, and resident memory of all together.
        processes: processes and threads at one time.
        file_mib: of one file; its whole temporary folder holds twice that.
        output_mib: that it may print; what is kept of it is the beginning.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_mib: int = 1024
    processes: int = 32
    file_mib: int = 16
    output_mib: int = 16


class Outcome(StrEnum):
    """How a program ended.

    `passed`: it ran to its last line. `failed`: an exception, or an end before that. The others: a limit ended it.
    """

    passed = "passed"
    failed = "failed"
    timeout = "timeout"
    memory = "memory"
    output = "output"


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Attributes:
        outcome: how it ended.
        detail: one line: the exception, or the limit.
        output: the beginning of what it printed.
        seconds: that it took.
    """

    outcome: Outcome
    detail: str = ""
    output: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it ran to its last line."""
        return self.outcome == Outcome.passed
