"""The command line that every service shares: `python -m yuan_<service> run MANIFEST [key=value …]`.

All that can go wrong in a command becomes one line and an exit code: 0 done, 1 it failed, 2 bad input,
130 interrupted.
"""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from yuan_events import InputError
from yuan_jobs.context import Work
from yuan_jobs.failures import guarded
from yuan_jobs.processes import end_with_parent, parent_from_environment

if TYPE_CHECKING:
    from yuan_manifest.schema import Kind

Command = Callable[[Sequence[str]], int]
"""A further subcommand of a service: gets the arguments after its name, returns the exit code; YuanErrors that it
raises become one line and their exit code, as everywhere. `ArgumentParser` of `yuan_jobs.arguments` suits it."""


def service_main(
    service: str,
    works: Mapping[Kind, Work[Any]],
    commands: Mapping[str, Command] | None = None,
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a service's command line and exits.

    Args:
        service: its name, `data` for `python -m yuan_data`.
        works: how each kind of job that it does is done.
        commands: further subcommands by name (`generate` of yuan_inference).
        arguments: instead of `sys.argv[1:]`.
    """
    if (parent := parent_from_environment()) is not None:
        end_with_parent(parent)
        # Our process group is not the terminal's: with `stty tostop` the first line would halt us.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(guarded(lambda: _dispatch(service, works, commands or {}, given)))


def _dispatch(
    service: str, works: Mapping[Kind, Work[Any]], commands: Mapping[str, Command], arguments: Sequence[str]
) -> int:
    names = ["run", *commands]
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(
            f"python -m yuan_{service} {' | '.join(names)} …\n"
            f"Does jobs of kind {' and '.join(works)} in the foreground; `yuan run MANIFEST` picks the service.\n"
        )
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "run":
        from yuan_jobs.running import run_job  # noqa: PLC0415 - loads SQLAlchemy, rich and more

        return run_job(service, works, rest)
    if name in commands:
        return commands[name](rest)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected {' or '.join(names)}"
    raise InputError(f"yuan_{service}: no command {name!r}; {hint}")
