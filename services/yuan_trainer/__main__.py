"""`python -m yuan_trainer run MANIFEST [key=value …] | server | worker`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from yuan_jobs import Work, WorkContext, WorkResult, service_main
from yuan_manifest.schema import Kind, PretrainJob

if TYPE_CHECKING:
    from yuan_jobs.serving import ServerContext
    from yuan_rpc import Mount


def _pretrain_work(context: WorkContext[PretrainJob]) -> WorkResult:
    from yuan_trainer.work import pretrain_work  # noqa: PLC0415 - torch takes seconds, and the server needs none

    return pretrain_work(context)


def _mounts(context: "ServerContext") -> "Sequence[Mount]":
    from yuan_trainer.server import mounts  # noqa: PLC0415 - loads gRPC

    return mounts(context)


if __name__ == "__main__":
    service_main(
        "trainer",
        {Kind.pretrain: Work(run=_pretrain_work)},
        mounts=_mounts,
        end_at_drain=("/yuan.trainer.v1.TrainerService/WatchMetrics",),
    )
