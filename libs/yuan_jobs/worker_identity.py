"""Who this process is to the registry."""

import os
import secrets
import socket
from importlib import metadata

from yuan_jobs.records import WorkerIdentity


def installed_version() -> str:
    """Returns the version of the installed Yuan Stack; `unknown` for a bare checkout."""
    try:
        return metadata.version("yuan-stack")
    except metadata.PackageNotFoundError:
        return "unknown"


def this_process(service: str, version: str | None = None) -> WorkerIdentity:
    """Returns a new identity for this process: `trainer-host-1234-9f0c21`, never the same twice."""
    host = socket.gethostname()
    name = f"{service}-{host[:60]}-{os.getpid()}-{secrets.token_hex(3)}"
    return WorkerIdentity(name, service, host, version or installed_version())
