"""The evaluator service's own calls: which tasks there are, and how models stand beside each other."""

import asyncio
from collections.abc import Sequence
from typing import Any

from yuan_evaluator.report.leaderboard import Row, leaderboard
from yuan_evaluator.tasks import all_tasks
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.serving import ServerContext
from yuan_rpc import Mount
from yuan_rpc.evaluator.v1 import evaluator_pb2, evaluator_pb2_grpc

SERVICE = "yuan.evaluator.v1.EvaluatorService"


def mounts(context: ServerContext) -> Sequence[Mount]:
    """Returns what the evaluator server serves beside jobs."""
    add = evaluator_pb2_grpc.add_EvaluatorServiceServicer_to_server
    return [Mount(add, EvaluatorServicer(context.store), SERVICE)]


class EvaluatorServicer(evaluator_pb2_grpc.EvaluatorServiceServicer):
    """Answers questions on tasks, and on the reports of one store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def ListTasks(  # noqa: N802 - the proto's name, as below
        self, request: evaluator_pb2.ListTasksRequest, context: Any
    ) -> evaluator_pb2.ListTasksResponse:
        """Returns every task by name."""
        del request, context
        return evaluator_pb2.ListTasksResponse(
            tasks=[
                evaluator_pb2.Task(
                    name=task.name,
                    title=task.title,
                    metric=task.metric,
                    files=[file.path for file in task.files],
                    items=task.items,
                    choices=task.likelihood is not None,
                    programs=task.program is not None,
                )
                for task in all_tasks().values()
            ]
        )

    async def GetLeaderboard(  # noqa: N802
        self, request: evaluator_pb2.GetLeaderboardRequest, context: Any
    ) -> evaluator_pb2.GetLeaderboardResponse:
        """Returns models that have reports, and the published rows."""
        del request, context
        rows = await asyncio.to_thread(leaderboard, self._store)
        return evaluator_pb2.GetLeaderboardResponse(rows=[_message(row) for row in rows])


def _message(row: Row) -> evaluator_pb2.Row:
    scores = [
        evaluator_pb2.Score(
            task=name, value=score["value"], standard_error=score["standard_error"], items=score["items"]
        )
        for name, score in row["scores"].items()
    ]
    return evaluator_pb2.Row(
        model=row["model"], report=row["report"], how=row["how"], published=row["published"], scores=scores
    )
