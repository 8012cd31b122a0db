"""Names that an evaluate job's suite may have: what tasks there are is a folder of the evaluator, one file each.

The folder is only looked at: the evaluator need not be installed where a manifest is written. Where it is not, names
are not known, and the evaluator says so itself.
"""

import importlib.util
from functools import cache
from pathlib import Path

PERPLEXITY = "perplexity"
SUITE = "yuan"
"""The original's five tasks together."""

OF_REQUESTS = ("requests", "requests_learned")
"""Tasks that ask the examples of teaching requests: those that were held out, and those that were trained on."""


@cache
def suite_names() -> tuple[str, ...] | None:
    """Returns every name that is known here; None where no evaluator is installed."""
    found = importlib.util.find_spec("yuan_evaluator")
    if found is None or not found.submodule_search_locations:
        return None
    folders = [Path(place) / "tasks" for place in found.submodule_search_locations]
    files = [path.stem for folder in folders for path in folder.glob("*.py") if not path.stem.startswith("_")]
    return (SUITE, PERPLEXITY, *sorted(files))
