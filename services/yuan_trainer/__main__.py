"""`python -m yuan_trainer run MANIFEST [key=value …] | server | worker`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from yuan_jobs import Work, WorkContext, WorkResult, service_main
from yuan_jobs.wiring import model_folder
from yuan_manifest.schema import Kind, TrainingJob

if TYPE_CHECKING:
    from yuan_jobs.serving import ServerContext
    from yuan_rpc import Mount


def _training_work(context: WorkContext[TrainingJob]) -> WorkResult:
    from yuan_trainer.work import training_work  # noqa: PLC0415 - torch takes seconds, and the server needs none

    return training_work(context)


def _fingerprint(job: TrainingJob) -> Mapping[str, str]:
    if model_folder(job) is None:
        return {}
    from yuan_trainer.starting import fingerprint  # noqa: PLC0415 - as above

    return fingerprint(job)


def _mounts(context: "ServerContext") -> "Sequence[Mount]":
    from yuan_trainer.server import mounts  # noqa: PLC0415 - loads gRPC

    return mounts(context)


if __name__ == "__main__":
    service_main(
        "trainer",
        dict.fromkeys((Kind.pretrain, Kind.finetune), Work(run=_training_work, fingerprint=_fingerprint)),
        mounts=_mounts,
        end_at_drain=("/yuan.trainer.v1.TrainerService/WatchMetrics",),
    )
