"""Puts a folder that is no artifact where its user wants it, so that the same job knows it again.

A process may die between the rename and the registry's word of it. The note that is written before the rename lets the
next attempt find that the folder is there and is its own, where anybody else's folder of that name is refused.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_NOTE = "placed.json"


def place(folder: Path, target: Path, run: Path, result: Mapping[str, Any]) -> None:
    """Renames a filled folder to where it is wanted.

    Args:
        folder: what was made; on the same file system.
        target: where it is wanted; nothing is there.
        run: the job's run folder, which keeps the note.
        result: what the job reports, for an attempt that only finds it done.

    Raises:
        OSError: if that is impossible; nothing is at the target then.
    """
    draft = run / f"{_NOTE}.tmp"
    with draft.open("w", encoding="utf-8") as file:
        json.dump({"path": str(target), **_likeness(folder), "result": dict(result)}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(run / _NOTE)
    folder.rename(target)


def placed(target: Path, run: Path) -> dict[str, Any] | None:
    """Returns what a job reported that put a folder where it is now; None if there is none, or another one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        note = json.loads((run / _NOTE).read_text(encoding="utf-8"))
        if {**note, "path": str(target), **_likeness(target)} == note:
            return dict(note["result"])
    return None


def _likeness(folder: Path) -> dict[str, int]:
    """Returns what a rename leaves as it is, and what another folder of the same name has otherwise."""
    status = folder.stat(follow_symlinks=False)
    return {"inode": status.st_ino, "changed": status.st_mtime_ns}
