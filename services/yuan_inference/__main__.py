"""`python -m yuan_inference run MANIFEST [key=value …] | generate MODEL PROMPT | server`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from yuan_jobs import Work, WorkContext, WorkResult, service_main
from yuan_manifest.schema import GenerateJob, Kind

if TYPE_CHECKING:
    from yuan_jobs.serving import ServerContext
    from yuan_rpc import Mount


def _generate_work(context: WorkContext[GenerateJob]) -> WorkResult:
    from yuan_inference.generation import generate_work  # noqa: PLC0415 - torch takes seconds: after the manifest's errors

    return generate_work(context)


def _generate_command(arguments: Sequence[str]) -> int:
    from yuan_inference.command import generate_command  # noqa: PLC0415 - as above

    return generate_command(arguments)


def _mounts(context: "ServerContext") -> "Sequence[Mount]":
    from yuan_inference.server import mounts  # noqa: PLC0415 - as above

    return mounts(context)


if __name__ == "__main__":
    service_main(
        "inference",
        {Kind.generate: Work(run=_generate_work)},
        {"generate": _generate_command},
        mounts=_mounts,
        jobs=False,
        traced=True,
    )
