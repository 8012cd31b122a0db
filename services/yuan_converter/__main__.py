"""`python -m yuan_converter run MANIFEST [key=value …] | inspect | diff | dry-run | server | worker`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from yuan_converter.release import release_work
from yuan_jobs import Work, WorkContext, WorkResult, service_main
from yuan_manifest.schema import ConvertJob, DeployJob, Kind

if TYPE_CHECKING:
    from yuan_jobs.serving import ServerContext
    from yuan_rpc import Mount


def _convert_work(context: WorkContext[ConvertJob]) -> WorkResult:
    from yuan_converter.conversion import convert_work  # noqa: PLC0415 - torch takes seconds: after a manifest's errors

    return convert_work(context)


def _deploy_work(context: WorkContext[DeployJob]) -> WorkResult:
    from yuan_converter.deployment import deploy_work  # noqa: PLC0415 - loads gRPC

    return deploy_work(context)


def _fingerprint(job: ConvertJob) -> Mapping[str, str]:
    from yuan_converter.conversion import fingerprint  # noqa: PLC0415 - as above

    return fingerprint(job)


def _inspect(arguments: Sequence[str]) -> int:
    from yuan_converter.command import inspect_command  # noqa: PLC0415 - as above

    return inspect_command(arguments)


def _diff(arguments: Sequence[str]) -> int:
    from yuan_converter.command import diff_command  # noqa: PLC0415 - as above

    return diff_command(arguments)


def _dry_run(arguments: Sequence[str]) -> int:
    from yuan_converter.command import dry_run_command  # noqa: PLC0415 - as above

    return dry_run_command(arguments)


def _mounts(context: "ServerContext") -> "Sequence[Mount]":
    from yuan_converter.server import mounts  # noqa: PLC0415 - loads gRPC

    return mounts(context)


if __name__ == "__main__":
    service_main(
        "converter",
        {
            Kind.convert: Work(run=_convert_work, fingerprint=_fingerprint),
            Kind.deploy: Work(run=_deploy_work),
            Kind.release: Work(run=release_work),
        },
        {"inspect": _inspect, "diff": _diff, "dry-run": _dry_run},
        mounts=_mounts,
    )
