"""Jobs and artifacts: what was asked for, what was made from what, and how a function becomes a job.

A service gives `service_main` a table of `Work`; each is a function from `WorkContext` to `WorkResult`. The
registry (`yuan_jobs.registry`), the artifact store (`yuan_jobs.artifacts`) and the order in which they are used
(`yuan_jobs.execution`) are imported by their modules' names, so that training ranks start without SQLAlchemy.
"""

from yuan_jobs.context import UNFINISHED, ArtifactHandle, Work, WorkContext, WorkResult
from yuan_jobs.identity import digest_of_files
from yuan_jobs.service import Command, service_main

__all__ = [
    "UNFINISHED",
    "ArtifactHandle",
    "Command",
    "Work",
    "WorkContext",
    "WorkResult",
    "digest_of_files",
    "service_main",
]
