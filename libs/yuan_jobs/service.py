"""The command line that every service shares: `python -m yuan_<service> run | server | worker …`.

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
    from yuan_jobs.serving import Mounts
    from yuan_manifest.schema import Kind

Command = Callable[[Sequence[str]], int]
"""A further subcommand of a service: gets the arguments after its name, returns the exit code; YuanErrors that it
raises become one line and their exit code, as everywhere. `ArgumentParser` of `yuan_jobs.arguments` suits it."""


def service_main(
    service: str,
    works: Mapping[Kind, Work[Any]],
    commands: Mapping[str, Command] | None = None,
    arguments: Sequence[str] | None = None,
    *,
    mounts: Mounts | None = None,
    jobs: bool = True,
    end_at_drain: Sequence[str] = (),
    traced: bool = False,
) -> NoReturn:
    """Runs a service's command line and exits.

    Args:
        service: its name, `data` for `python -m yuan_data`.
        works: how each kind of job that it does is done.
        commands: further subcommands by name (`generate` of yuan_inference).
        arguments: instead of `sys.argv[1:]`.
        mounts: the gRPC services of its own that `server` serves, see `yuan_jobs.serving.Mounts`; it may import what
            it needs when it is called.
        jobs: whether it takes jobs from the queue: `server` has a JobService and the reconciler, and there is a
            `worker`. The inference service has neither.
        end_at_drain: full names (`/yuan.trainer.v1.TrainerService/WatchMetrics`) of streams of its own that may never
            end by themselves: they end when the server drains.
        traced: calls of `server` are traced, where the cluster says where to.
    """
    if (parent := parent_from_environment()) is not None:
        end_with_parent(parent)
        # Our process group is not the terminal's: with `stty tostop` the first line would halt us.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    given = sys.argv[1:] if arguments is None else arguments

    def run(rest: Sequence[str]) -> int:
        from yuan_jobs.running import run_job  # noqa: PLC0415 - loads SQLAlchemy, rich and more

        return run_job(service, works, rest)

    def server(rest: Sequence[str]) -> int:
        from yuan_jobs.serving import run_server  # noqa: PLC0415 - loads gRPC

        return run_server(service, works, rest, mounts=mounts, jobs=jobs, end_at_drain=end_at_drain, traced=traced)

    def worker(rest: Sequence[str]) -> int:
        from yuan_jobs.arguments import cluster_of  # noqa: PLC0415 - loads OmegaConf
        from yuan_jobs.worker import run_worker  # noqa: PLC0415 - loads Celery

        return run_worker(service, works, cluster_of(f"python -m yuan_{service} worker", rest))

    table: dict[str, Command] = {"run": run} if works else {}
    if jobs or mounts is not None:
        table["server"] = server
    if jobs:
        table["worker"] = worker
    sys.exit(guarded(lambda: _dispatch(service, works, {**table, **(commands or {})}, given)))


def _dispatch(
    service: str, works: Mapping[Kind, Work[Any]], commands: Mapping[str, Command], arguments: Sequence[str]
) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        does = f"Does jobs of kind {' and '.join(works)}; `yuan run MANIFEST` picks the service. " if works else ""
        sys.stdout.write(f"python -m yuan_{service} {' | '.join(commands)} …\n{does}`yuan up` starts its processes.\n")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in commands:
        return commands[name](rest)
    near = difflib.get_close_matches(name, list(commands), n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected {' or '.join(commands)}"
    raise InputError(f"yuan_{service}: no command {name!r}; {hint}")
