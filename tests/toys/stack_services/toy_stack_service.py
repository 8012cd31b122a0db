"""A service of a stack that does nothing: a server that answers health, a worker that waits for its end.

A folder, TOY_CONTROL, steers it, by files named after the process (`data-server`, `data-worker`): while `NAME.fail`
is there it ends with the file's text as its last line and its first word as its exit code; while `NAME.slow` is there
it does not come up; `NAME.stubborn` makes it deaf to SIGTERM. `starts` gets a line `NAME PID` a start, `ends` one an
orderly end.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from yuan_events import YuanError
from yuan_jobs.processes import StopRequest, announce_ready, end_with_parent, parent_from_environment
from yuan_manifest import load_cluster
from yuan_rpc import server_of


def control(name: str) -> Path:
    """Returns a file of the control folder."""
    return Path(os.environ["TOY_CONTROL"]) / name


def note(file: str, name: str) -> None:
    """Appends a line in one write: several processes do so at once."""
    with control(file).open("a") as lines:
        lines.write(f"{name} {os.getpid()}\n")


def main(service: str) -> None:
    """Runs `python -m yuan_<service> server | worker -f CLUSTER`."""
    if (parent := parent_from_environment()) is not None:
        end_with_parent(parent)
    role, _, cluster_file = sys.argv[1:]
    name = f"{service}-{role}"
    note("starts", name)
    if control(f"{name}.fail").exists():
        code, _, line = control(f"{name}.fail").read_text().partition(" ")
        sys.stderr.write(f"Traceback (most recent call last):\n{line}\n")
        sys.exit(int(code))
    while control(f"{name}.slow").exists():
        time.sleep(0.05)
    try:
        if role == "server":
            asyncio.run(server_of(service, load_cluster(cluster_file).cluster, [], drain_seconds=1.0).run())
        else:
            work(name)
    except YuanError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    note("ends", name)


def work(name: str) -> None:
    """Waits until it is asked to end."""
    if control(f"{name}.stubborn").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with StopRequest(insistent=False) as stop:
        announce_ready()
        while not stop.requested():
            time.sleep(0.02)
