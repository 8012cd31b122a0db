"""What a worker process of `worker_processes.py` runs: items in, results out, until its parent is gone.

It is started as a program of its own and so knows nothing of its parent's main module, threads and open files.
"""

import mmap
import os
import pickle
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from yuan_corpus.worker_lane import Lane, packed, unpacked
from yuan_events import WorkFailed, YuanError

Answer = tuple[int, Any, YuanError | None]
"""Number of an item, the result, or in its place the error."""


def main(life: int, start: int, connection: int, memory: int) -> None:
    """Works.

    Args:
        life: descriptor of a pipe that nobody writes to and that ends with the parent.
        start: descriptor of a file with the pickled function that makes the function.
        connection: see Lane.
        memory: see Lane.
    """
    threading.Thread(target=_end_with_parent, args=(life,), daemon=True).start()
    lane = Lane(Connection(connection), memory, inbound_first=True)
    function: Callable[[Any], Any] | None = None

    def begin() -> Callable[[Any], Any]:
        nonlocal function
        function = function or _unpickled(start)()
        return function

    while True:
        try:
            number, item = lane.receive(unpacked)
            lane.send(packed(answer_of(begin, number, item)))
        except (EOFError, OSError):
            return


def answer_of(begin: Callable[[], Callable[[Any], Any]], number: int, item: Any) -> Answer:
    """Returns what a function makes of an item.

    Args:
        begin: returns the function.
        number: of the item.
        item: what it is applied to.
    """
    try:
        return number, begin()(item), None
    except YuanError as error:
        return number, None, error
    except Exception as error:  # noqa: BLE001  # whatever it is, whoever asked for the result must hear of it
        where = traceback.extract_tb(error.__traceback__)[-1]
        return number, None, WorkFailed(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")


def _unpickled(file: int) -> Callable[[], Callable[[Any], Any]]:
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as content:
        return pickle.loads(content)  # noqa: S301  # of our parent


def _end_with_parent(life: int) -> None:
    """Ends this process as soon as its parent has ended, also while it computes."""
    os.read(life, 1)
    os._exit(1)
