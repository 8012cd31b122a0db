"""Small file operations that several modules share."""

import os
from pathlib import Path


def replace_durably(temporary: Path, path: Path) -> None:
    """Gives a finished temporary file its name, once its content is on the disk.

    Raises:
        OSError: if the disk is full or the folder is gone.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_text_durably(path: Path, text: str) -> None:
    """Writes a whole text file, which never exists half-written under its name.

    Raises:
        OSError: if it cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    replace_durably(temporary, path)
