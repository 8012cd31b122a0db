"""A function applied to many items by several processes, results in the items' order.

This process is one of them: while a result of another is not due it makes one itself, so that no core waits for the
start of a process, and with two processes on two cores none is in the others' way. Memory is bounded: only so many
items are ahead of the one whose result comes next. Workers never outlive their parent, whatever ends it, and never see
Ctrl-C, which is the parent's to handle. Not a general pool: one function, one pass, no retries; a dead worker fails the
whole.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from yuan_corpus.files import anonymous_file
from yuan_corpus.worker_lane import SLOTS, Bytes, Lane, fits, lane_bytes, packed, unpacked
from yuan_corpus.worker_main import Answer, answer_of
from yuan_events import AttemptLost, Interrupted, WorkFailed

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_WINDOW = 4
"""Items a process may be ahead of the result that comes next."""
_POLL_SECONDS = 0.2
_END_SECONDS = 5


def ordered_map(
    start: Callable[[], Callable[[ItemT], ResultT]],
    items: Iterable[ItemT],
    workers: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> Generator[ResultT]:
    """Yields a function's result of every item, in order.

    Args:
        start: called once in every process, returns the function; both it and the items must be picklable, and what it
            is made of importable by name.
        items: what the function is applied to; one that is no sequence is taken from only as results are due, in this
            process.
        workers: processes, this one among them: with one all happens here.
        should_stop: asked between items and several times a second while there is nothing to do here; once true the map
            ends.

    Raises:
        Interrupted: if `should_stop()`.
        AttemptLost: if a worker was killed.
        WorkFailed: if a worker ended; if there are several and the function raised something that is not a YuanError.
        YuanError: what the function raised.
    """
    if isinstance(items, Sequence):
        workers = min(workers, len(items))  # pyright: ignore[reportUnknownArgumentType]
    if workers > 1:
        with closing(_Team(start, workers - 1)) as team:
            yield from team.map(items, should_stop)
        return
    function: Callable[[ItemT], ResultT] | None = None
    for item in items:
        _stop_if_asked(should_stop)
        function = function or start()
        yield function(item)


def _stop_if_asked(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Interrupted("interrupted; run it again to begin this step anew")


class _Worker:
    """A process and the lane to it.

    Attributes:
        lane: to it.
        given: items whose results have not come back.
    """

    def __init__(self, life: int, start: int) -> None:
        """Starts it.

        Args:
            life: see `worker_main.main`.
            start: see there.
        """
        ours, theirs = Pipe()
        memory = anonymous_file("yuan-lane", lane_bytes())
        self.lane = Lane(ours, os.dup(memory), inbound_first=False)
        self.given = 0
        self._answered = False
        descriptors = (life, start, theirs.fileno(), memory)
        program = (
            f"import sys; sys.path[:] = {sys.path!r}\nfrom yuan_corpus.worker_main import main; main{descriptors!r}"
        )
        try:
            # Started anew, not forked: this process may have threads (a terminal, a server), which forks do not
            # survive well.
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=descriptors
            )
        except BaseException:
            self.lane.close()
            raise
        finally:
            theirs.close()
            os.close(memory)

    @property
    def most(self) -> int:
        """How many items it may have: until it has shown that it is there, others do what would wait for it."""
        return SLOTS if self._answered else 1

    def takes(self, message: list[Bytes]) -> bool:
        """Says whether an item can be sent without waiting for it."""
        return self.given == 0 or (self.given < self.most and fits(message))

    def send(self, message: list[Bytes]) -> None:
        """Sends an item.

        Raises:
            WorkFailed: if it is dead.
        """
        try:
            self.lane.send(message)
        except OSError:
            raise self._death() from None
        self.given += 1

    def receive(self) -> Answer:
        """Returns an answer, which is there.

        Raises:
            WorkFailed: if it is dead.
        """
        try:
            answer: Answer = self.lane.receive(unpacked)
        except (EOFError, OSError):
            raise self._death() from None
        self.given -= 1
        self._answered = True
        return answer

    def _death(self) -> WorkFailed:
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkFailed(f"worker process {self._process.pid} closed its end and lives on")
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        why = "; was the machine out of memory?" if code == -signal.SIGKILL else ""
        return (AttemptLost if code < 0 else WorkFailed)(f"worker process {self._process.pid} ended {how}{why}")

    def kill(self) -> None:
        """Ends it, whatever it is doing."""
        self.lane.close()
        self._process.kill()

    def join(self) -> None:
        """Waits until it has ended."""
        self._process.wait()


class _Team(Generic[ItemT, ResultT]):
    """This process and others."""

    def __init__(self, start: Callable[[], Callable[[ItemT], ResultT]], others: int) -> None:
        self._start = start
        self._function: Callable[[ItemT], ResultT] | None = None
        self._workers: dict[Connection, _Worker] = {}
        pickled = pickle.dumps(start, pickle.HIGHEST_PROTOCOL)
        file = anonymous_file("yuan-start", len(pickled))
        life, self._life = os.pipe()
        # A blocked signal stays blocked in the processes that are started now, from their very first instruction.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with open(file, "wb", closefd=False) as content:
                content.write(pickled)
            for _ in range(others):
                worker = _Worker(life, file)
                self._workers[worker.lane.connection] = worker
        except BaseException:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(file)
            os.close(life)

    def map(self, items: Iterable[ItemT], should_stop: Callable[[], bool]) -> Generator[ResultT]:
        """Hands items out, does some here, and yields results in order."""
        results: dict[int, ResultT] = {}
        source = _Source(items)
        due = 0
        window = _WINDOW * (1 + len(self._workers))
        while True:
            _stop_if_asked(should_stop)
            most = due + window
            self._hand_out(source, most)
            own = source.given < most and source.more()
            if not own and due == source.given:
                return
            ready = wait(list(self._workers), timeout=0 if own or due in results else _POLL_SECONDS)
            answers = [self._workers[connection].receive() for connection in ready]  # pyright: ignore[reportArgumentType]
            if not ready and own:
                answers = [answer_of(self._begin, *source.take())]
            for number, result, error in answers:
                if error is not None:
                    raise error
                results[number] = result
            while due in results:
                _stop_if_asked(should_stop)
                yield results.pop(due)
                due += 1

    def _hand_out(self, source: "_Source[ItemT]", most: int) -> None:
        """Gives the others what they take, evenly."""
        while source.given < most and source.more():
            worker = min(self._workers.values(), key=lambda worker: worker.given)
            left = source.left
            if left is not None and worker.given > left // (1 + len(self._workers)):
                return  # towards the end all are to be done at the same time
            if worker.given >= worker.most or not worker.takes(source.message()):
                return
            worker.send(source.message())
            source.take()

    def _begin(self) -> Callable[[ItemT], ResultT]:
        self._function = self._function or self._start()
        return self._function

    def close(self) -> None:
        """Ends the others, whatever they are doing."""
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            worker.join()
        os.close(self._life)


class _Source(Generic[ItemT]):
    """Items, looked at before they are taken.

    Attributes:
        given: how many were taken.
    """

    def __init__(self, items: Iterable[ItemT]) -> None:
        self._items = iter(items)
        self._count = len(items) if isinstance(items, Sequence) else None  # pyright: ignore[reportUnknownArgumentType]
        self._next: list[ItemT] = []
        self._message: list[Bytes] | None = None
        self.given = 0

    @property
    def left(self) -> int | None:
        """How many are not taken; None: unknown."""
        return None if self._count is None else self._count - self.given

    def more(self) -> bool:
        """Says whether there is one more."""
        if not self._next:
            self._next.extend(islice(self._items, 1))
        return bool(self._next)

    def message(self) -> list[Bytes]:
        """Returns the next one, with its number, as it is sent."""
        if self._message is None:
            self._message = packed((self.given, self._next[0]))
        return self._message

    def take(self) -> tuple[int, ItemT]:
        """Takes the next one; returns it with its number."""
        self._message = None
        self.given += 1
        return self.given - 1, self._next.pop()
