"""`python -m yuan_stack HOME LOCK [COMPANION]`: the supervisor's process, as `yuan up` starts it. Not for users.

HOME is the cluster's home, LOCK the descriptor of its stack's lock, COMPANION the process that the stack ends with.
"""

import sys
from pathlib import Path

from yuan_jobs.failures import guarded
from yuan_jobs.processes import StopRequest
from yuan_stack.folder import StackFolder, StackLock
from yuan_stack.supervisor import Supervisor


def main() -> int:
    """Runs the supervisor until its stack has ended."""
    home, descriptor, *companion = sys.argv[1:]
    folder = StackFolder(Path(home))
    with StopRequest(insistent=False) as stop:  # before the lock tells others whom they may ask to stop
        lock = StackLock.inherit(folder, int(descriptor))
        try:
            Supervisor(folder, int(companion[0]) if companion else None).run(stop)
        finally:
            lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
