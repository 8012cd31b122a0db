"""Jobs and artifacts as messages of `yuan.jobs.v1`, and plain values as protobuf's Struct.

Struct knows one kind of number, a double: whole numbers become such on the way in and whole again on the way out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from yuan_events import InputError
from yuan_jobs.states import Desired, JobState
from yuan_manifest.values import KeyPath, children, format_path
from yuan_rpc.jobs.v1 import jobs_pb2

if TYPE_CHECKING:  # a client has no database
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from yuan_events import Progress
    from yuan_jobs.records import ArtifactRecord, AttemptRecord, JobRecord
    from yuan_jobs.schedules import ScheduleRecord

_LARGEST = 1 << 53


def job_message(record: JobRecord, *, whole: bool = True, progress: Progress | None = None) -> jobs_pb2.Job:
    """Returns a job as a message.

    Args:
        record: the job.
        whole: False leaves out recipe, topology and result, which a list does without.
        progress: how far it has come; None: nothing is known.
    """
    message = jobs_pb2.Job(
        id=record.id,
        kind=record.kind,
        name=record.name,
        state=_state_number(record.state),
        desired=f"DESIRED_STATE_{record.desired.value}",
        attempt=record.attempt,
        lost_attempts=record.lost_attempts,
        reason=record.reason or "",
        parent_id=record.parent_id or "",
        step=record.step,
        created_at=moment_of(record.created),
        started_at=moment_of(record.started),
        finished_at=moment_of(record.finished),
        artifact=record.artifact or "",
        identity=record.identity,
        needs=record.needs,
        priority=record.priority,
        labels=record.scheduling.labels,
        failures=record.failures,
        not_before=moment_of(record.not_before),
    )
    if progress is not None:
        message.progress.CopyFrom(
            jobs_pb2.JobProgress(
                task=progress.task,
                done=progress.done,
                total=progress.total,
                unit=progress.unit,
                detail=progress.detail,
            )
        )
    if whole:
        message.recipe.CopyFrom(struct_of(record.recipe))
        message.topology.CopyFrom(struct_of(record.topology))
        if record.result is not None:
            message.result.CopyFrom(struct_of(record.result))
    return message


def artifact_message(
    record: ArtifactRecord,
    *,
    location: str = "",
    metadata: Mapping[str, Any] | None = None,
    used_by: Iterable[ArtifactRecord] = (),
) -> jobs_pb2.Artifact:
    """Returns an artifact as a message.

    Args:
        record: the artifact.
        location: its folder or URL.
        metadata: its `artifact.json`.
        used_by: what was made from it.
    """
    message = jobs_pb2.Artifact(
        kind=record.kind,
        name=record.name,
        version=record.version,
        digest=record.digest,
        job_id=record.job_id,
        size_bytes=record.size_bytes,
        created_at=moment_of(record.created),
        location=location,
        used_by=[f"{user.kind}/{user.name}@{user.version}" for user in used_by],
    )
    if metadata is not None:
        message.metadata.CopyFrom(struct_of(metadata))
    return message


def attempt_message(record: AttemptRecord) -> jobs_pb2.Attempt:
    """Returns a run of a job as a message."""
    return jobs_pb2.Attempt(
        number=record.number,
        worker=record.worker,
        host=record.host,
        version=record.version,
        started_at=moment_of(record.started),
        ended_at=moment_of(record.ended),
        outcome=record.outcome.value if record.outcome is not None else "",
        reason=record.reason or "",
    )


def schedule_message(record: ScheduleRecord) -> jobs_pb2.Schedule:
    """Returns a schedule as a message."""
    return jobs_pb2.Schedule(
        name=record.name,
        kind=record.kind,
        cron=record.cron,
        timezone=record.timezone,
        created_at=moment_of(record.created),
        next_run_at=moment_of(record.next_run),
        last_run_at=moment_of(record.last_run),
        last_job_id=record.last_job_id or "",
        problem=record.problem or "",
    )


def state_of(number: jobs_pb2.JobState) -> JobState:
    """Returns a message's state.

    Raises:
        InputError: for one that is unspecified or unknown.
    """
    try:
        return JobState(jobs_pb2.JobState.Name(number).removeprefix("JOB_STATE_"))
    except ValueError:
        raise InputError(f"no state {number}; expected one of {', '.join(JobState)}") from None


def desired_of(number: jobs_pb2.DesiredState) -> Desired:
    """Returns what a message's job is wanted to do."""
    return Desired(jobs_pb2.DesiredState.Name(number).removeprefix("DESIRED_STATE_"))


def state_numbers(states: Iterable[JobState]) -> list[jobs_pb2.JobState]:
    """Returns states as messages have them."""
    return [_state_number(state) for state in states]


def struct_of(values: Mapping[str, Any]) -> Struct:
    """Returns plain values as a Struct.

    Raises:
        InputError: for a whole number that a double cannot hold; it names the key.
    """
    _check_numbers(values, ())
    struct = Struct()
    struct.update(values)
    return struct


def plain_of(struct: Struct) -> dict[str, Any]:
    """Returns a Struct's plain values, numbers without a fraction as whole ones."""
    return cast("dict[str, Any]", _whole(MessageToDict(struct)))


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(child) for key, child in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_whole(child) for child in cast("list[Any]", value)]
    return value


def _check_numbers(value: Any, path: KeyPath) -> None:
    for key, child in children(value):
        _check_numbers(child, (*path, key))
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise InputError(f"{format_path(path)}: {value} is too large to be sent to a server; expected 2^53 at most")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{format_path(path)}: expected a finite number, found {value}")


def _state_number(state: JobState) -> jobs_pb2.JobState:
    return cast("jobs_pb2.JobState", jobs_pb2.JobState.Value(f"JOB_STATE_{state.value}"))


def moment_of(value: datetime | None) -> Timestamp | None:
    """Returns a time as a message; None stays None."""
    if value is None:
        return None
    moment = Timestamp()
    moment.FromDatetime(value)
    return moment
