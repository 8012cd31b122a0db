"""States of a job, what users want of it, and how its attempts end."""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands: `WAITING -> QUEUED -> RUNNING -> SUCCEEDED | FAILED | CANCELLED`.

    WAITING jobs wait for others that they need, QUEUED ones for a worker; in the foreground a job is RUNNING from
    its first moment. A job that the user interrupted is CANCELLED. FAILED and CANCELLED jobs can be run on (another
    attempt of the same job); SUCCEEDED is final. A pipeline is RUNNING while its steps are; no worker holds it.
    """

    WAITING = "WAITING"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing happens any more by itself."""
        return self not in ACTIVE


ACTIVE = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)
"""States of jobs that have not ended."""

NOT_BEGUN = (JobState.WAITING, JobState.QUEUED)
"""States of jobs that no worker holds."""

RESUMABLE = (JobState.FAILED, JobState.CANCELLED)
"""States from which a user may run a job on."""


NOTHING = "nothing"
"""Key in the result of a job that SUCCEEDED and made nothing, since there was nothing to make: why."""


class Desired(StrEnum):
    """What is wanted of a job: that it runs, that it ends, or that it goes back to the queue at a safe point."""

    RUN = "RUN"
    CANCEL = "CANCEL"
    YIELD = "YIELD"


class AttemptOutcome(StrEnum):
    """How an attempt ended: as the job did, or without the job having ended."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    YIELDED = "YIELDED"
    LOST = "LOST"


class DeploymentState(StrEnum):
    """How the inference service stands to a deployment."""

    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
