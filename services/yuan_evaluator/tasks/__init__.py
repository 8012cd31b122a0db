"""The tasks, one file each: a module here whose `TASK` is a `Task` can be named in a suite; that is all it takes."""

import importlib
import pkgutil
from functools import cache

from yuan_evaluator.task import Task

ORIGINAL = ("humaneval", "gsm8k", "mathqa", "mathcloze", "truthfulqa")
"""Suite `yuan`: what the original's report has."""


@cache
def all_tasks() -> dict[str, Task]:
    """Returns every task by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return {name: importlib.import_module(f"{__name__}.{name}").TASK for name in names}


def tasks_of(suite: list[str]) -> list[Task]:
    """Returns the tasks that a suite names, each once; `perplexity` is none of them.

    Raises:
        KeyError: if there is none of a name.
    """
    names = [name for entry in suite for name in (ORIGINAL if entry == "yuan" else (entry,)) if name != "perplexity"]
    return [all_tasks()[name] for name in dict.fromkeys(names)]
