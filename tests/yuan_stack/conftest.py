"""The toys of `tests/toys` for this folder's tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "toys"))

from toy_home import toys
from toy_stack import stack

__all__ = ["stack", "toys"]
