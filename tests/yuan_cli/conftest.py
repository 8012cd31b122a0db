"""The toys of `tests/toys` for this folder's tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toys"))

from job_stack import job_stack
from toy_home import toys

__all__ = ["job_stack", "toys"]
