"""`python -m yuan_converter run MANIFEST [key=value …]`."""

from collections.abc import Mapping

from yuan_jobs import Work, WorkContext, WorkResult, service_main
from yuan_manifest.schema import ConvertJob, Kind


def _convert_work(context: WorkContext[ConvertJob]) -> WorkResult:
    from yuan_converter.conversion import convert_work  # noqa: PLC0415 - torch takes seconds: after a manifest's errors

    return convert_work(context)


def _fingerprint(job: ConvertJob) -> Mapping[str, str]:
    from yuan_converter.conversion import fingerprint  # noqa: PLC0415 - as above

    return fingerprint(job)


if __name__ == "__main__":
    service_main("converter", {Kind.convert: Work(run=_convert_work, fingerprint=_fingerprint)})
