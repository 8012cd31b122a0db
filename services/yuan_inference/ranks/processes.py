"""The processes of a model's ranks: started, watched, ended. What they compute is `runner`'s to ask.

A thread a rank starts it and waits for its end, so that it is known at once that a rank has died (and the system, which
ends a child with the thread that started it, ends no rank too early). Another looks at the time that answers take.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from yuan_inference.ranks.orders import RankLost, RankSetup

_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 5.0
_SECONDS_TO_LOAD = 300.0
"""That a rank may load without a word."""


@dataclass
class _Rank:
    """One process.

    Attributes:
        number: of the rank.
        pipe: to it.
        process: once it has been started.
        started: set when it has been, or could not be.
        thread: that waits for its end.
    """

    number: int
    pipe: "Connection[Any, Any]"
    process: "subprocess.Popen[bytes] | None" = None
    started: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class RankProcesses:
    """One generation of ranks: when one of them has gone, all go.

    Attributes:
        lost: why nothing can be computed any more; empty as long as all are well.
    """

    def __init__(self, model: str, setup: RankSetup, logits: int, on_lost: Callable[[], None]) -> None:
        """Starts them; they read weights then.

        Args:
            model: name for messages.
            setup: of rank 0; the others' differ in their number. `meeting` is set here.
            logits: descriptor of the memory for logits.
            on_lost: called in a thread of its own as soon as one has gone that was not asked to.

        Raises:
            RankLost: if a process cannot be started.
        """
        self.lost = ""
        self._model, self._on_lost, self._logits = model, on_lost, logits
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._deadline: float | None = None
        self._seconds = 0.0
        self._unanswered: set[int] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="yuan-ranks-")
        setup = replace(setup, meeting=Path(self._folder.name) / "meeting")
        self._ranks: list[_Rank] = []
        for number in range(setup.ranks):
            own, others = Pipe()
            rank = _Rank(number, own)
            rank.thread = threading.Thread(
                target=self._live, args=(rank, others), name=f"rank-{number}-{model}", daemon=True
            )
            self._ranks.append(rank)
            rank.thread.start()
        for rank in self._ranks:
            rank.started.wait()
        threading.Thread(target=self._watch, name=f"ranks-{model}", daemon=True).start()
        self.begin(seconds=max(_SECONDS_TO_LOAD, setup.seconds))
        try:
            self._send({number: pickle.dumps(replace(setup, rank=number)) for number in range(setup.ranks)})
        except RankLost:
            self.close()
            raise

    @property
    def pipes(self) -> "dict[Connection[Any, Any], int]":
        """The ranks by their pipes."""
        return {rank.pipe: rank.number for rank in self._ranks}

    @property
    def pids(self) -> list[int]:
        """Their processes."""
        return [rank.process.pid for rank in self._ranks if rank.process is not None]

    def send_all(self, message: Any) -> None:
        """Sends all ranks the same.

        Raises:
            RankLost: if one has gone.
        """
        # Not the pipe's own pickling: torch has it lend tensors instead of writing them.
        self._send(dict.fromkeys(range(len(self._ranks)), pickle.dumps(message)))

    def _send(self, messages: dict[int, bytes]) -> None:
        try:
            for number, message in messages.items():
                self._ranks[number].pipe.send_bytes(message)
        except OSError:
            raise self.gone() from None

    def begin(self, seconds: float) -> None:
        """Starts the time that all ranks have to answer."""
        self._seconds = seconds
        self._unanswered = {rank.number for rank in self._ranks}
        self._deadline = time.monotonic() + seconds

    def answered(self, number: int) -> None:
        """Says that a rank has answered; the last one stops the time."""
        self._unanswered.discard(number)
        if not self._unanswered:
            self._deadline = None

    def heard(self) -> None:
        """Starts the time anew, since something was heard of a rank."""
        self._deadline = time.monotonic() + self._seconds

    def hurry(self, seconds: float) -> None:
        """Leaves those that have not answered no more than some seconds."""
        if self._deadline is not None:
            self._deadline = min(self._deadline, time.monotonic() + seconds)

    def gone(self) -> RankLost:
        """Returns why a pipe has broken; waits a moment for the thread that knows."""
        end = time.monotonic() + _SECONDS_TO_END
        while not self.lost and time.monotonic() < end:
            time.sleep(0.01)
        self.lose("a rank closed its pipe")
        return RankLost(self.lost)

    def lose(self, reason: str) -> None:
        """Ends all ranks since one is of no use any more; the first reason stays."""
        with self._lock:
            if self.lost or self._ending.is_set():
                return
            self.lost = f"model {self._model}: {reason}"
        self._kill()
        self._on_lost()

    def close(self) -> None:
        """Ends them, who end of themselves when their pipe is closed; whoever does not is killed."""
        self._ending.set()
        self._deadline = None
        for rank in self._ranks:
            rank.pipe.close()
        end = time.monotonic() + _SECONDS_TO_END
        for rank in self._ranks:
            if rank.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    rank.process.wait(max(0.0, end - time.monotonic()))
        self._kill()
        for rank in self._ranks:
            if rank.thread is not None and rank.thread is not threading.current_thread():
                rank.thread.join(_SECONDS_TO_END)
        self._folder.cleanup()

    def _live(self, rank: _Rank, others: "Connection[Any, Any]") -> None:
        """Starts a rank and waits for its end."""
        try:
            rank.process = subprocess.Popen(
                [sys.executable, "-m", "yuan_inference.ranks", *map(str, (others.fileno(), self._logits, os.getpid()))],
                stdin=subprocess.DEVNULL,
                pass_fds=(others.fileno(), self._logits),
                env=_environment(),
                start_new_session=True,  # a terminal's Ctrl-C is the server's to answer
            )
        except OSError as error:
            rank.started.set()
            self.lose(f"rank {rank.number} cannot be started: {error}")
            return
        finally:
            others.close()
        rank.started.set()
        code = rank.process.wait()
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        self.lose(f"rank {rank.number} (process {rank.process.pid}) {how}")

    def _watch(self) -> None:
        """Finds those who do not answer in time: a stopped process, a network that hangs."""
        while not self._ending.wait(_SECONDS_BETWEEN_LOOKS) and not self.lost:
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self.lose(f"{self._silent()} for {self._seconds:.0f} s")

    def _silent(self) -> str:
        """Says which rank is to blame: one that is stopped has the others wait for it."""
        waiting = [rank for rank in self._ranks if rank.number in self._unanswered and rank.process is not None]
        stopped = [rank for rank in waiting if rank.process is not None and _is_stopped(rank.process.pid)]
        named = ", ".join(
            f"rank {rank.number} (process {rank.process.pid})"
            for rank in stopped or waiting
            if rank.process is not None
        )
        return f"{named} {'is stopped and ' if stopped else ''}has not answered"

    def _kill(self) -> None:
        for rank in self._ranks:
            if rank.process is not None and rank.process.poll() is None:
                rank.process.kill()


def _environment() -> dict[str, str]:
    """Returns a rank's environment: all ranks are on this host, whatever its name resolves to."""
    environment = dict(os.environ)
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _is_stopped(pid: int) -> bool:
    """Tells whether a process has been stopped (SIGSTOP), where the system says so."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in {"T", "t"}
