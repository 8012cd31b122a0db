"""`python -m yuan_evaluator run MANIFEST [key=value …] | server | worker | tasks | sandbox --socket PATH`."""

from collections.abc import Sequence

from yuan_jobs import Work, WorkContext, WorkResult, service_main
from yuan_manifest.schema import EvaluateJob, Kind


def _evaluate_work(context: WorkContext[EvaluateJob]) -> WorkResult:
    from yuan_evaluator.evaluation import evaluate_work  # noqa: PLC0415 - torch takes seconds: after a manifest's errors

    return evaluate_work(context)


def _sandbox(arguments: Sequence[str]) -> int:
    from yuan_evaluator.sandbox.server import sandbox_command  # noqa: PLC0415 - only there

    return sandbox_command(arguments)


if __name__ == "__main__":
    service_main("evaluator", {Kind.evaluate: Work(run=_evaluate_work)}, {"sandbox": _sandbox})
