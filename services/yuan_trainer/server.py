"""The trainer service's own: a run's metrics from its first step on, as a stream; where runs stand, for Prometheus."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from yuan_jobs.finding import find_job
from yuan_jobs.home import Home
from yuan_jobs.records import JobRecord
from yuan_jobs.registry import Registry
from yuan_jobs.serving import ServerContext
from yuan_jobs.states import JobState
from yuan_manifest import Kind
from yuan_rpc import InvalidArgument, Mount
from yuan_rpc.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from yuan_trainer.gauges import gauges_of
from yuan_trainer.history import HISTORY_NAME, HistoryReader

SERVICE = "yuan.trainer.v1.TrainerService"

POLL_SECONDS = 0.5
_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


def mounts(context: ServerContext) -> Sequence[Mount]:
    """Returns what the trainer server serves beside jobs."""
    context.on_ready.append(lambda server: server.registry.register(gauges_of(context.home, context.registry)))
    add = trainer_pb2_grpc.add_TrainerServiceServicer_to_server
    return [Mount(add, TrainerServicer(context.home, context.registry), SERVICE)]


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Answers questions on training runs of one home."""

    def __init__(self, home: Home, registry: Registry, poll_seconds: float = POLL_SECONDS) -> None:
        self._home = home
        self._registry = registry
        self._poll_seconds = poll_seconds

    async def WatchMetrics(  # noqa: N802 - the proto's name
        self, request: trainer_pb2.WatchMetricsRequest, context: Any
    ) -> AsyncIterator[trainer_pb2.WatchMetricsResponse]:
        """Streams metrics until the job has ended.

        A resumed run measures the steps after its checkpoint anew: they come again, with the later attempt.
        """
        del context
        job = await asyncio.to_thread(self._job, request.job_id)
        reader = HistoryReader(self._home.run_folder(job.id) / HISTORY_NAME)
        while True:
            # The state first: what was written before the end is in the file by the time it is read.
            job = await asyncio.to_thread(self._job, request.job_id)
            for record in await asyncio.to_thread(reader.read_new):
                if (response := _response(record)).step > request.after_step:
                    yield response
            if job.state in _ENDED:
                return
            await asyncio.sleep(self._poll_seconds)

    def _job(self, job_id: str) -> JobRecord:
        job = find_job(self._registry, job_id)
        if job.kind not in (Kind.pretrain, Kind.finetune):
            problem = f"is of kind {job.kind}, which measures nothing; name a pretrain or finetune job"
            raise InvalidArgument(f"job {job.id} {problem}", {"job_id": problem})
        return job


def _response(record: dict[str, Any]) -> trainer_pb2.WatchMetricsResponse:
    values = {name: float(value) for name, value in record.items() if name not in {"step", "attempt"}}
    return trainer_pb2.WatchMetricsResponse(step=record["step"], attempt=record.get("attempt", 0), values=values)
