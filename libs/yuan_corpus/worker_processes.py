"""A function applied to many items by several processes, results in the items' order.

Memory is bounded: only so many items are ahead of the one whose result comes next. Workers never outlive their
parent, whatever ends it, and never see Ctrl-C, which is the parent's to handle. Not a general pool: one function, one
pass, no retries; a dead worker fails the whole.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from yuan_events import AttemptLost, Interrupted, WorkFailed, YuanError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_WINDOW = 4
"""Items a worker may be ahead of the result that comes next."""
_POLL_SECONDS = 0.2


def ordered_map(
    start: Callable[[], Callable[[ItemT], ResultT]],
    items: Iterable[ItemT],
    workers: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[ResultT]:
    """Yields a function's result of every item, in order.

    Args:
        start: called once in every worker, returns the function; both it and the items must be picklable. With one
            worker all happens in this process.
        items: what the function is applied to; one that is no sequence is taken from only as results are due, in this
            process.
        workers: processes.
        should_stop: asked now and then; once true the map ends.

    Raises:
        Interrupted: if `should_stop()`.
        AttemptLost: if a worker was killed.
        WorkFailed: if a worker ended or its function raised something that is not a YuanError.
        YuanError: what the function raised.
    """
    if isinstance(items, Sequence):
        workers = min(workers, len(items))  # pyright: ignore[reportUnknownArgumentType]
    if workers > 1:
        team = _Team(start, workers)
        try:
            yield from team.map(items, should_stop)
        finally:
            team.end()
        return
    function: Callable[[ItemT], ResultT] | None = None
    for item in items:
        _stop_if_asked(should_stop)
        function = function or start()
        yield function(item)


def _stop_if_asked(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Interrupted("interrupted; run it again to begin this step anew")


class _Team(Generic[ItemT, ResultT]):
    """Worker processes with a pipe to each."""

    def __init__(self, start: Callable[[], Callable[[ItemT], ResultT]], workers: int) -> None:
        # Spawned, not forked: the parent may have threads (a terminal, a server), which forks do not survive well.
        context = multiprocessing.get_context("spawn")
        self._processes: dict[Connection, BaseProcess] = {}
        # A blocked signal stays blocked in the processes that are started now, from their very first instruction.
        # Starting Python's resource tracker unblocks it (python/cpython#127586), so that comes first.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(start, theirs), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def map(self, items: Iterable[ItemT], should_stop: Callable[[], bool]) -> Generator[ResultT]:
        """Hands items out and yields results in order."""
        idle = list(self._processes)
        results: dict[int, ResultT] = {}
        given = 0
        due = 0
        source = iter(items)
        more = True
        while more or due < given:
            _stop_if_asked(should_stop)
            while more and idle and given < due + _WINDOW * len(self._processes):
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                    break
                self._send(idle.pop(), given, item)
                given += 1
            if due == given:
                continue
            for connection in wait(list(self._processes), timeout=_POLL_SECONDS):
                assert isinstance(connection, Connection)  # noqa: S101  # wait() is typed for sockets too
                number, result = self._receive(connection)
                results[number] = result
                idle.append(connection)
            while due in results:
                _stop_if_asked(should_stop)
                yield results.pop(due)
                due += 1

    def _send(self, connection: Connection, number: int, item: ItemT) -> None:
        try:
            connection.send((number, item))
        except OSError:
            raise self._death(connection) from None

    def _receive(self, connection: Connection) -> tuple[int, ResultT]:
        try:
            number, result, error = connection.recv()
        except (EOFError, OSError):
            raise self._death(connection) from None
        if error is not None:
            raise error
        return number, result

    def _death(self, connection: Connection) -> WorkFailed:
        process = self._processes[connection]
        process.join(timeout=5)
        code = process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        why = "; was the machine out of memory?" if code == -signal.SIGKILL else ""
        kind = AttemptLost if code is not None and code < 0 else WorkFailed
        return kind(f"worker process {process.pid} ended {how}{why}")

    def end(self) -> None:
        """Ends the processes, whatever they are doing."""
        for connection, process in self._processes.items():
            connection.close()
            process.kill()
        for process in self._processes.values():
            process.join()


def _work(start: Callable[[], Callable[[Any], Any]], connection: Connection) -> None:
    """Is what a worker process runs: items in, results out, until the parent closes the pipe."""
    _end_with_parent()
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            number, item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            function = function or start()
            answer = (number, function(item), None)
        except YuanError as error:
            answer = (number, None, error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the parent must hear of it
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            answer = (number, None, WorkFailed(text))
        try:
            connection.send(answer)
        except OSError:
            return


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, also while it computes."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
