"""The toys of `tests/toys` for this folder's tests: real processes, whose work obeys a folder of files."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "toys"))

from job_stack import job_stack
from postgresql import postgresql_server
from queue_stack import stack
from toy_home import small_disk, toys

__all__ = ["job_stack", "postgresql_server", "small_disk", "stack", "toys"]
