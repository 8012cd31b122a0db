"""Small file operations that several modules share."""

import os
import tempfile
import threading
from pathlib import Path
from typing import IO

_SYNC_BYTES = 8 << 20
"""Bytes that a growing file may keep from the disk, about."""


class EarlySync:
    """Has the disk take what a growing file has so far, so that at its end there is little left to wait for.

    Whether a file is durable is not known from here: `replace_durably` sees to that.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Begins with an open file."""
        self._file = file
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def wrote(self, count: int) -> None:
        """Is told of every write.

        Raises:
            OSError: if the disk did not take what was written before. It says so once, and to nobody else.
        """
        self._waiting += count
        if self._waiting < _SYNC_BYTES or (self._thread is not None and self._thread.is_alive()):
            return
        self.begin()

    def begin(self) -> None:
        """Has the disk take what there is; comes back at once.

        Raises:
            OSError: as `wrote`; if it cannot be written.
        """
        self.end()
        self._file.flush()
        self._waiting = 0
        self._thread = threading.Thread(target=self._sync, args=(self._file.fileno(),), daemon=True)
        self._thread.start()

    def _sync(self, descriptor: int) -> None:
        try:
            getattr(os, "fdatasync", os.fsync)(descriptor)
        except OSError as error:
            self._error = error

    def end(self) -> None:
        """Waits until nothing is under way; the file can be closed then.

        Raises:
            OSError: as `wrote`.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if (error := self._error) is not None:
            self._error = None
            raise error


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


def anonymous_file(name: str, size: int) -> int:
    """Returns the descriptor of a new file of zeros, in memory where the system can do that; nobody has to remove it.

    Args:
        name: of it in a list of open files; no other program finds it by that.
        size: in bytes.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
