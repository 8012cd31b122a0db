"""Starts and watches the processes that a manifest needs; what they do is not known here.

In the foreground that is one service's process at a time: `run_manifest`, `run_service`. As a stack it is all that a
cluster manifest names (`up.py`, `down.py`, `status.py`), kept running by a supervisor.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yuan_stack.foreground import run_manifest
    from yuan_stack.service_process import run_service

__all__ = ["run_manifest", "run_service"]

# Loaded at first use: they bring the whole of yuan_jobs, which the supervisor, a process that stays, does without.
_HOMES = {"run_manifest": "foreground", "run_service": "service_process"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
