"""The process that SentencePiece trains in: `python -m yuan_corpus.training_process OPTIONS`.

SentencePiece computes for minutes inside C++, deaf to Ctrl-C, and writes its log to the terminal. Here it can be
killed, and its log goes to the parent's pipe. Not for use by hand.
"""

import json
import os
import sys
import threading

import sentencepiece

FAILURE = "training failed: "
"""Begins the line on the log that says why."""


def _end_with_parent() -> None:
    """Waits for the end of standard input, which the parent holds open as long as it lives."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main() -> int:
    """Trains with the options given as JSON, in the working folder."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sentencepiece.SentencePieceTrainer.train(**json.loads(sys.argv[1]))
    except (RuntimeError, OSError, ValueError) as error:
        sys.stderr.write(f"\n{FAILURE}{' '.join(str(error).split())}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
