"""`python -m yuan_inference.ranks PIPE LOGITS PARENT`: one rank. Started by the server alone, and ends with it."""

import os
import signal
import sys
from multiprocessing.connection import Connection

from yuan_jobs.processes import end_with_parent


def main(pipe: int, logits: int, parent: int) -> None:
    """Serves one rank until the server closes its end of the pipe.

    Args:
        pipe: descriptor of this end.
        logits: descriptor of the memory that logits go into.
        parent: process that this one ends with.
    """
    end_with_parent(parent)
    # A terminal's Ctrl-C goes to all its processes: the server drains first, and then says when it is over.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    from yuan_inference.ranks.rank import serve  # noqa: PLC0415 - torch takes seconds; the lines above come first

    serve(Connection(pipe), logits)
    os._exit(0)  # taking the network and its connections to pieces takes seconds, and the system does it as well


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
