"""What files say, read anew when they have changed, so that it can be changed without a restart.

Nothing runs in between: whoever asks looks at the files' time stamps, which takes microseconds.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from yuan_events import YuanError, one_line

_LOGGER = logging.getLogger("yuan_rpc.files")

_T = TypeVar("_T")


class Watched(Generic[_T]):
    """What some files say now; may be shared by threads.

    Files that have become unreadable or wrong keep their last meaning, and one line of the log says so: a slip while
    tokens are exchanged, or a certificate whose key is still to come, must not lock everybody out. Who removes an entry
    from a file that is right has removed it.
    """

    def __init__(self, read: Callable[[], _T], *paths: Path | None) -> None:
        """Reads them.

        Args:
            read: gives them their meaning; also called where one of them is not there.
            paths: the files; None is none.

        Raises:
            YuanError: as `read` does, this first time.
        """
        self._read = read
        self._paths = [path for path in paths if path is not None]
        signature = self._signature()
        self._known: tuple[object, _T] = (signature, read())

    def get(self) -> _T:
        """Returns what they say now; the very same value as long as none of them has changed."""
        signature = self._signature()
        before, value = self._known
        if signature != before:
            try:
                value = self._read()
            except YuanError as error:
                _LOGGER.warning("%s; what it said before still holds", one_line(error))
            self._known = (signature, value)
        return value

    def _signature(self) -> object:
        return tuple(_signature_of(path) for path in self._paths)


def _signature_of(path: Path) -> object:
    """Returns what is another value as soon as a file has been written or replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
