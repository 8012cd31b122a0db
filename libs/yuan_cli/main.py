"""The entry point of `yuan`. Loads the rest as late as it can: Ctrl-C while it starts is no traceback either."""

import signal
import sys


def main() -> None:
    """Runs the command line and exits: 0 done, 1 it failed, 2 bad input, 130 interrupted."""
    try:
        # A script's `yuan … &` is started with SIGINT ignored, which nobody asked for: it would be deaf to `kill -INT`.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        from yuan_cli.app import run  # noqa: PLC0415
        from yuan_jobs.failures import guarded  # noqa: PLC0415

        sys.exit(guarded(lambda: run(sys.argv[1:])))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
