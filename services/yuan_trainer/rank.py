"""One rank's process: `python -m yuan_trainer.rank SPECIFICATION`, started by the launcher and by nobody else."""

import logging
import os
import signal
import sys
import traceback
from pathlib import Path

from yuan_events import InputError, one_line
from yuan_trainer.link import ParentLink, RankReport
from yuan_trainer.specification import Specification
from yuan_trainer.watchdog import write_stacks_at_end


def main() -> None:
    """Trains, says how it ended, and ends the process without waiting for anything that may hang."""
    # The parent decides when to stop and says so over the link; a terminal's Ctrl-C reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    write_stacks_at_end()
    link = ParentLink.from_environment()
    code = 0
    try:
        # Not at the top: importing DeepSpeed takes seconds in which the parent must already be heard.
        from yuan_trainer.joining import join_processes  # noqa: PLC0415
        from yuan_trainer.pretrain import pretrain  # noqa: PLC0415

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        specification = Specification.read(Path(sys.argv[1]))
        join_processes(specification.device)
        report = pretrain(specification, link)
    except Exception as error:  # noqa: BLE001  (the last line of defence: the parent tells the user)
        traceback.print_exc()
        code = 1
        report = RankReport("failed", reason=one_line(error), bad_input=isinstance(error, InputError))
    link.report(report)
    sys.stdout.flush()
    sys.stderr.flush()
    # Collective libraries may wait at exit for ranks that are gone; everything of worth is on disk by now.
    os._exit(code)


if __name__ == "__main__":
    main()
