"""How a command ends: every error becomes one line on stderr and an exit code, never a traceback.

0 done, 1 it failed, 2 bad input, 130 interrupted. What nobody foresaw goes to a log file, and the line names it.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from yuan_events import Interrupted, YuanError, one_line


def guarded(command: Callable[[], int]) -> int:
    """Runs a command and returns its exit code; prints the line of the error that ended it, if one did."""
    for stream in (sys.stdout, sys.stderr):
        _show_unknown_characters(stream)
    try:
        with _refusals_named(sys.stdout):
            code = command()
            sys.stdout.flush()
    except YuanError as error:
        code = _report(one_line(error), error.exit_code)
    except KeyboardInterrupt:
        code = _report("interrupted", Interrupted.exit_code)
    except BrokenPipeError:  # the reader of our output has gone, as in `yuan artifacts | head -1`
        silence(sys.stdout)
        code = 1
    except _OutputRefused as error:
        silence(sys.stdout)
        code = _report(f"cannot write the output: {error}", 1)
    except Exception as error:  # noqa: BLE001 - the last resort of a command
        code = _report(f"{one_line(error)} (this should not happen; details: {write_traceback(error)})", 1)
    return code


class _OutputRefused(OSError):
    """The output takes nothing more, of a full disk for one; the text says why."""


@contextmanager
def _refusals_named(stream: Any) -> Generator[None]:
    """Tells a stream that cannot be written to apart from any other file: the error of the system names neither."""

    def named(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise _OutputRefused((error.strerror or str(error)).lower()) from error

        return called

    methods = {name: getattr(stream, name) for name in ("write", "flush")}
    for name, method in methods.items():
        setattr(stream, name, named(method))
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(stream, name, method)


def silence(stream: TextIO) -> None:
    """Makes a stream whose reader has gone harmless: what is written to it from now on is dropped."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def write_traceback(error: BaseException) -> Path:
    """Writes an error's traceback to a file in the home's logs, or where that is impossible in a temporary folder."""
    name = f"error-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.txt"
    text = "".join(traceback.format_exception(error))
    try:
        from yuan_jobs.home import Home  # noqa: PLC0415 - what is broken may be just this
        from yuan_manifest.loading import load_cluster  # noqa: PLC0415

        path = Home.of(load_cluster().cluster).logs / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except Exception:  # noqa: BLE001
        path = Path(tempfile.gettempdir()) / f"yuan-{name}"
        with suppress(OSError):
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def _show_unknown_characters(stream: Any) -> None:
    """Lets characters that the user's locale cannot show appear as their codes."""
    if callable(reconfigure := getattr(stream, "reconfigure", None)):
        reconfigure(errors="backslashreplace")


def _report(line: str, code: int) -> int:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        silence(sys.stdout)  # else Python tries once more at its end, and says so in lines of its own
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)
    return code
