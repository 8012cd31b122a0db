"""`python -m yuan_evaluator tasks | leaderboard`: what can be measured, and what was."""

import json
import sys
from collections.abc import Sequence

from yuan_evaluator.report.leaderboard import leaderboard
from yuan_evaluator.report.markdown import leaderboard_table, table
from yuan_evaluator.tasks import ORIGINAL, all_tasks
from yuan_jobs.arguments import ArgumentParser
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_manifest.loading import load_cluster


def tasks_command(arguments: Sequence[str]) -> int:
    """Prints the tasks."""
    parser = ArgumentParser(prog="python -m yuan_evaluator tasks", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(list(arguments))
    found = list(all_tasks().values())
    if options.json:
        rows = [
            {
                "name": task.name,
                "title": task.title,
                "metric": task.metric,
                "items": task.items,
                "suite_yuan": task.name in ORIGINAL,
                "likelihood": task.likelihood is not None,
                "programs": task.program is not None,
                "files": [
                    {"path": file.path, "sha256": list(file.sha256), "optional": file.optional} for file in task.files
                ],
            }
            for task in found
        ]
        sys.stdout.write(json.dumps(rows, ensure_ascii=False, indent=2) + "\n")
        return 0
    shown = [
        (
            task.name,
            task.title,
            str(task.items),
            task.metric,
            "yes" if task.name in ORIGINAL else "",
            task.files[0].path,
        )
        for task in found
    ]
    sys.stdout.write(table(("task", "title", "items", "score", "in suite yuan", "file of inputs.data"), shown))
    sys.stdout.write("and perplexity, on the validation part of a dataset (inputs.dataset)\n")
    return 0


def leaderboard_command(arguments: Sequence[str]) -> int:
    """Prints all models that have reports, beside the published ones."""
    parser = ArgumentParser(prog="python -m yuan_evaluator leaderboard", allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-f", "--cluster", help="the cluster's file, whose store holds the reports")
    options = parser.parse_args(list(arguments))
    store = ArtifactStore.open(Home.of(load_cluster(options.cluster).cluster))
    try:
        rows = leaderboard(store)
    finally:
        store.registry.close()
    text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n" if options.json else leaderboard_table(rows)
    sys.stdout.write(text)
    return 0
