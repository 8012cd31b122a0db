"""A file that is read anew when it has changed, so that what it says can be changed without a restart.

Nothing runs in between: whoever asks looks at the file's time stamps, which takes microseconds.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from yuan_events import YuanError, one_line

_LOGGER = logging.getLogger("yuan_rpc.files")

_T = TypeVar("_T")


class WatchedFile(Generic[_T]):
    """What a file says now; may be shared by threads.

    A file that has become unreadable or wrong keeps its last meaning, and one line of the log says so: a slip while
    tokens are exchanged must not lock everybody out. Who removes an entry from a file that is right has removed it.
    """

    def __init__(self, path: Path, read: Callable[[Path], _T]) -> None:
        """Reads it.

        Args:
            path: the file.
            read: gives it its meaning; also called where it is not there.

        Raises:
            YuanError: as `read` does, this first time.
        """
        self.path = path
        self._read = read
        signature = signature_of(path)
        self._known: tuple[object, _T] = (signature, read(path))

    def get(self) -> _T:
        """Returns what it says now."""
        signature = signature_of(self.path)
        before, value = self._known
        if signature != before:
            try:
                value = self._read(self.path)
            except YuanError as error:
                _LOGGER.warning("%s; what it said before still holds", one_line(error))
            self._known = (signature, value)
        return value


def signature_of(path: Path) -> object:
    """Returns what is another value as soon as a file has been written or replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
