"""Starts and watches the processes that a manifest needs; what they do is not known here.

In the foreground that is one service's process at a time: `run_manifest`, `run_service`.
"""

from yuan_stack.foreground import run_manifest
from yuan_stack.service_process import run_service

__all__ = ["run_manifest", "run_service"]
