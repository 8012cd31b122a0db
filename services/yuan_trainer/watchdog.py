"""Ends a rank whose step, or validation, has hung, after writing where every thread of it stands.

All ranks of a hung step hang together: the first whose time is over says so to the parent, which ends the others, and
each writes its stacks before it goes (`write_stacks_at_end`).

Time is counted in slices of a second that passed while this process ran, as in `link.py`: a run that was suspended has
not hung.
"""

import faulthandler
import os
import signal
import sys
import threading

from yuan_trainer.link import ParentLink, RankReport

EXIT_CODE = 76


def write_stacks_at_end() -> None:
    """Makes SIGTERM, by which a parent ends ranks, write the stacks of all threads to the rank's log first."""
    faulthandler.register(signal.SIGTERM, file=sys.stderr, all_threads=True, chain=True)


class Watchdog:
    """Watches steps and validations from a thread of its own."""

    def __init__(self, link: ParentLink, seconds: int | None) -> None:
        """Begins to watch.

        Args:
            link: to the parent.
            seconds: that a step may take; None: any time.
        """
        self._link = link
        self._seconds = seconds
        self._what = ""
        self._passed = 0
        self._allowed = seconds
        self._watching = threading.Event()
        if seconds is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def begin(self, what: str, steps: int = 1) -> None:
        """Starts the time of something.

        Args:
            what: in words for a message (`step 12`).
            steps: as many samples as so many steps have: it may take so many times as long.
        """
        self._what, self._passed = what, 0
        self._allowed = None if self._seconds is None else self._seconds * max(1, steps)
        self._watching.set()

    def end(self) -> None:
        """Stops the time."""
        self._watching.clear()

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            self._watching.wait()
            pause.wait(1.0)
            if not self._watching.is_set():
                continue
            self._passed += 1
            if self._allowed is not None and self._passed > self._allowed:
                self._give_up(self._what, self._allowed)

    def _give_up(self, what: str, seconds: int) -> None:
        sys.stderr.write(f"{what} has taken longer than {seconds} s; where its threads stand:\n")
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        reason = (
            f"{what} has hung for {seconds} s (train.step_timeout_seconds); it goes on from the last checkpoint "
            "when the same command runs again; where every rank stood is in its log"
        )
        self._link.report(RankReport("failed", reason=reason, hung=True))
        sys.stderr.flush()
        os._exit(EXIT_CODE)
