"""Options that say when a job runs, as what they stand for: overrides of the manifest's `scheduling`."""

import json
from collections.abc import Sequence

from yuan_events import InputError


def labels_of(items: Sequence[str]) -> dict[str, str]:
    """Returns `NAME=VALUE` items by name.

    Raises:
        InputError: for an item without `=` or name.
    """
    labels: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise InputError(f"--label {item}: expected NAME=VALUE, as in --label team=speech")
        labels[name] = value
    return labels


def scheduling_overrides(priority: int | None, labels: Sequence[str]) -> list[str]:
    """Returns what `--priority` and `--label` put over a manifest.

    Raises:
        InputError: for a label without `=` or name.
    """
    items = [] if priority is None else [f"scheduling.priority={priority}"]
    if labels:
        # As one value: a label's name may have dots in it, which an override would take for a path.
        items.append(f"scheduling.labels={json.dumps(labels_of(labels), ensure_ascii=False)}")
    return items
