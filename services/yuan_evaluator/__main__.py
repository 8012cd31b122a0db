"""`python -m yuan_evaluator run MANIFEST [key=value …] | server | worker | tasks | leaderboard | sandbox`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from yuan_jobs import Work, WorkContext, WorkResult, service_main
from yuan_manifest.schema import AnswerJob, EvaluateJob, JudgeJob, Kind

if TYPE_CHECKING:
    from yuan_jobs.serving import ServerContext
    from yuan_rpc import Mount


def _evaluate_work(context: WorkContext[EvaluateJob]) -> WorkResult:
    from yuan_evaluator.evaluation import evaluate_work  # noqa: PLC0415 - loads much: after a manifest's errors

    return evaluate_work(context)


def _fingerprint(job: EvaluateJob) -> Mapping[str, str]:
    from yuan_evaluator.evaluation import fingerprint  # noqa: PLC0415 - as above

    return fingerprint(job)


def _judge_work(context: WorkContext[JudgeJob]) -> WorkResult:
    from yuan_evaluator.judging import judge_work  # noqa: PLC0415 - as above

    return judge_work(context)


def _answer_work(context: WorkContext[AnswerJob]) -> WorkResult:
    from yuan_evaluator.answering import answer_work  # noqa: PLC0415 - as above

    return answer_work(context)


def _mounts(context: "ServerContext") -> "Sequence[Mount]":
    from yuan_evaluator.server import mounts  # noqa: PLC0415 - loads gRPC

    return mounts(context)


def _tasks(arguments: Sequence[str]) -> int:
    from yuan_evaluator.command import tasks_command  # noqa: PLC0415 - only there

    return tasks_command(arguments)


def _leaderboard(arguments: Sequence[str]) -> int:
    from yuan_evaluator.command import leaderboard_command  # noqa: PLC0415 - only there

    return leaderboard_command(arguments)


def _sandbox(arguments: Sequence[str]) -> int:
    from yuan_evaluator.sandbox.server import sandbox_command  # noqa: PLC0415 - only there

    return sandbox_command(arguments)


if __name__ == "__main__":
    service_main(
        "evaluator",
        {
            Kind.evaluate: Work(run=_evaluate_work, fingerprint=_fingerprint),
            Kind.judge: Work(run=_judge_work),
            Kind.answer: Work(run=_answer_work),
        },
        {"tasks": _tasks, "leaderboard": _leaderboard, "sandbox": _sandbox},
        mounts=_mounts,
    )
