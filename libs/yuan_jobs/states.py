"""States of a job and which of them follow which."""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands: `WAITING -> QUEUED -> RUNNING -> SUCCEEDED | FAILED | CANCELLED`.

    WAITING jobs wait for others that they need, QUEUED ones for a worker; in the foreground a job is RUNNING from
    its first moment. A job that the user interrupted is CANCELLED. FAILED and CANCELLED jobs can be run on (another
    attempt of the same job); SUCCEEDED is final.
    """

    WAITING = "WAITING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
