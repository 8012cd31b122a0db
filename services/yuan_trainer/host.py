"""One host's agent: `python -m yuan_trainer.host FOLDER …`, started on each host by what `launchers` has chosen.

It starts the host's ranks as `launcher.py` does on a single host, passes on what they say through the launch folder,
and ends them when the run says so, is silent for a lease, or this process ends, however it ends.
"""

import argparse
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from yuan_events import InputError, one_line
from yuan_trainer.joining import Meeting, NameUnknown, meeting_of_hosts, meeting_on_one_host
from yuan_trainer.launch_folder import Beacon, HostReport, HostWriter, Launch, LaunchFolder, Watch, Word
from yuan_trainer.launcher import Cause, Ending, run_share
from yuan_trainer.link import LEASE_SECONDS, LOST_PARENT_EXIT_CODE

NAME_SECONDS = 120.0
"""How long the first host's name may be unknown: a cluster's name server learns of a new pod late."""


class _Told(BaseException):
    """The run has ended, or is gone; carries the exit code."""

    def __init__(self, code: int) -> None:
        self.code = code


class _Signalled(BaseException):
    """Somebody beside the run wants this process to end."""


def main() -> int:
    """Runs the ranks of this host; returns the exit code."""
    options = _parsed()
    folder = LaunchFolder(options.folder)
    launch = folder.launch()
    host = options.index if options.index is not None else int(os.environ[options.index_from])
    if not 0 <= host < launch.hosts:
        print(f"host {host} has no part in a run of {launch.hosts}", file=sys.stderr)  # noqa: T201
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides; a terminal's Ctrl-C reaches it too
    signal.signal(signal.SIGTERM, _on_signal)
    name = socket.gethostname()
    writer = HostWriter(folder.events(host))
    with Beacon(folder.alive(host)):
        writer.report(HostReport("ready", name))
        try:
            report = _report_of(_run(folder, launch, host, options.address, writer), name)
        except _Told as told:
            writer.report(HostReport("ended", name))
            return told.code
        except _Signalled:
            text = f"host {host} ({name}) was told to end by SIGTERM; the same command resumes from the last checkpoint"
            report = HostReport("failed", name, cause=Cause.signal, text=text)
        except Exception as error:  # noqa: BLE001 (the last line of defence: the run tells the user)
            traceback.print_exc()
            cause = Cause.input if isinstance(error, InputError) else Cause.reason
            report = HostReport("failed", name, cause=cause, text=f"host {host} ({name}): {one_line(error)}")
        writer.report(report)
    return 1 if report.state == "failed" else 0


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m yuan_trainer.host", description=__doc__)
    parser.add_argument("folder", type=Path, help="the launch folder, which all hosts see at one path")
    index = parser.add_mutually_exclusive_group(required=True)
    index.add_argument("--index", type=int, help="this host's number, from 0")
    index.add_argument("--index-from", metavar="VARIABLE", help="environment variable that holds it")
    parser.add_argument("--address", required=True, help="name or address of host 0, as every host knows it")
    return parser.parse_args()


def _on_signal(number: int, frame: object) -> None:
    del number, frame
    raise _Signalled


def _run(folder: LaunchFolder, launch: Launch, host: int, address: str, writer: HostWriter) -> Ending:
    """Waits for the word, then runs the ranks."""
    watch = Watch(folder.control)

    def look() -> Word:
        word = watch.look()
        if word == Word.end:
            raise _Told(0)
        if watch.silent_seconds > launch.lease_seconds:
            raise _Told(LOST_PARENT_EXIT_CODE)
        return word

    while (word := look()) == Word.wait:
        time.sleep(0.1)
    if word == Word.stop:
        return Ending(stopped=True)
    os.environ[LEASE_SECONDS] = str(launch.lease_seconds)
    with _meeting(launch, address, look) as meeting:
        return run_share(
            Path(launch.specification),
            launch.share(host),
            meeting,
            device=launch.device,
            visible_devices=launch.visible_devices,
            logs=Path(launch.logs),
            sink=writer,
            should_stop=lambda: look() == Word.stop,
        )


def _meeting(launch: Launch, address: str, look: Callable[[], Word]) -> AbstractContextManager[Meeting]:
    if launch.hosts == 1:
        return meeting_on_one_host()
    deadline = time.monotonic() + NAME_SECONDS
    while True:
        try:
            return nullcontext(meeting_of_hosts(address, launch.port))
        except NameUnknown:
            if time.monotonic() > deadline:
                raise
        look()
        time.sleep(1.0)


def _report_of(ending: Ending, name: str) -> HostReport:
    if ending.failure is not None:
        return HostReport("failed", name, cause=ending.failure.cause, text=ending.failure.text)
    return HostReport("stopped" if ending.stopped else "done", name, step=ending.step)


if __name__ == "__main__":
    sys.exit(main())
