"""`yuan.jobs.v1.JobService`: jobs and artifacts of the one registry, for whoever may call.

Thin: what submitting, steering and looking mean is in the registry's modules. All of them block, so every call does
its work in a thread. Each server takes jobs of its own service's kinds, and pipelines; reading works on all.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from yuan_events import InputError, Progress, one_line
from yuan_jobs import claims, control, queries
from yuan_jobs.artifacts import ArtifactDamaged, ArtifactStore
from yuan_jobs.database import RegistryAway
from yuan_jobs.finding import NoSuchJob, find_job
from yuan_jobs.following import last_progress
from yuan_jobs.garbage import collect_garbage
from yuan_jobs.messages import artifact_message, attempt_message, job_message, plain_of, schedule_message, state_of
from yuan_jobs.notifications import check_webhooks
from yuan_jobs.planning import check_artifacts, check_order, parts_of
from yuan_jobs.records import ArtifactRecord, JobRecord
from yuan_jobs.references import ArtifactKind, ArtifactNotFound
from yuan_jobs.registry import Registry
from yuan_jobs.requests import Request, request_from_plain
from yuan_jobs.resuming import topologies_of
from yuan_jobs.schedules import NoSuchSchedule, put_schedule, remove_schedule, schedules
from yuan_jobs.states import JobState
from yuan_jobs.submission import LONGEST_KEY, IdempotencyConflict, submit
from yuan_jobs.urls import check_urls
from yuan_jobs.watching import Logged, Watched
from yuan_manifest import SERVICE_OF_KIND, ClusterManifest, Kind
from yuan_manifest.schema import as_plain
from yuan_manifest.values import shown
from yuan_rpc import (
    VERSION,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Mount,
    NotFound,
    RpcError,
    Translations,
    Unavailable,
    join_address,
)
from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc

if TYPE_CHECKING:
    from yuan_jobs.serving import ServerContext

SERVICE = "yuan.jobs.v1.JobService"

ENDLESS = (f"/{SERVICE}/Watch", f"/{SERVICE}/StreamLogs")
"""Streams that last as long as a job."""

WITHOUT_QUEUE = ("inference", "gateway")
"""Services that take no jobs from the queue; jobs of their kinds run in the foreground only."""

RECONCILER = "reconciler"

_SECONDS_BETWEEN_LOOKS = 0.2
_REGISTRY_RETRY_SECONDS = 2.0
_PAGE, _LARGEST_PAGE = 100, 1000
_TOKEN = re.compile(r"[0-9]{1,18}")  # of a list of artifacts; int() refuses some thousand digits


def job_service(context: "ServerContext", kinds: Sequence[Kind]) -> Mount:
    """Returns the JobService of a server.

    Args:
        context: of the server.
        kinds: kinds of jobs that it takes, besides pipelines.
    """
    servicer = JobServicer(context, kinds)
    return Mount(jobs_pb2_grpc.add_JobServiceServicer_to_server, servicer, SERVICE)


@dataclass(frozen=True)
class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """Answers on the registry of one cluster.

    Attributes:
        context: of the server that it is a part of.
        kinds: kinds of jobs that it takes, besides pipelines.
    """

    context: "ServerContext"
    kinds: Sequence[Kind]

    @property
    def _registry(self) -> Registry:
        return self.context.registry

    @property
    def _store(self) -> ArtifactStore:
        return self.context.store

    # --- jobs ---------------------------------------------------------------------------------------------------

    async def Submit(self, request: jobs_pb2.SubmitRequest, context: Any) -> jobs_pb2.SubmitResponse:  # noqa: N802
        """Puts a job on the queue, or returns the one that is the same."""
        del context
        return await asyncio.to_thread(self._submit, request)

    def _submit(self, message: jobs_pb2.SubmitRequest) -> jobs_pb2.SubmitResponse:
        request = self._request(message)
        if len(message.idempotency_key) > LONGEST_KEY:
            problem = f"is longer than {LONGEST_KEY} characters"
            raise InvalidArgument(f"idempotency_key: {problem}", {"idempotency_key": problem})
        parts = parts_of(request)
        check_order(parts)
        check_artifacts(parts, self._store)
        check_webhooks(request, self.context.manifest.cluster.security.webhook_hosts)
        check_urls(parts, self.context.manifest.cluster)
        record, reused = submit(self._registry, request, force=message.force, idempotency_key=message.idempotency_key)
        return jobs_pb2.SubmitResponse(job=job_message(record), reused=reused)

    def _request(self, message: jobs_pb2.SubmitRequest | jobs_pb2.PutScheduleRequest) -> Request:
        """Returns what is asked for, of kinds that this server takes."""
        topology = plain_of(message.topology) if message.HasField("topology") else self._default_topology()
        request = request_from_plain(plain_of(message.job), topology)
        self._check_kinds(request)
        return request

    def _default_topology(self) -> dict[str, Any]:
        return as_plain(self.context.manifest.topology)

    def _check_kinds(self, request: Request) -> None:
        """Checks that this stack has somebody who does the job, and that this server takes it."""
        is_pipeline = request.kind == Kind.pipeline
        for part in parts_of(request):
            service = SERVICE_OF_KIND[part.job.kind]
            if service in WITHOUT_QUEUE or not _address(self.context.manifest, service):
                problem = f"kind {part.job.kind} is not done on the queue of this stack (no {service} workers)"
                key = f"job.steps.{part.name}.job.kind" if is_pipeline else "job.kind"
                who = f"{request.name}: step {part.name}" if is_pipeline else request.name
                raise InvalidArgument(f"{who}: {problem}; do it here and now with: yuan run", {key: problem})
        if not is_pipeline and request.kind not in self.kinds:
            service = SERVICE_OF_KIND[request.kind]
            where = _address(self.context.manifest, service)
            problem = f"kind {request.kind} is done by the {service} service{where}, not by {self.context.service}"
            raise InvalidArgument(f"{request.name}: {problem}; submit it there", {"job.kind": problem})

    async def Get(self, request: jobs_pb2.GetRequest, context: Any) -> jobs_pb2.GetResponse:  # noqa: N802
        """Returns one job with its parts."""
        del context

        def get() -> jobs_pb2.GetResponse:
            job = find_job(self._registry, request.id)
            children = queries.children(self._registry, job.id)
            attempts = queries.attempts(self._registry, job.id)
            return jobs_pb2.GetResponse(
                job=job_message(job, progress=self._progress(job)),
                children=[job_message(child, progress=self._progress(child)) for child in children],
                attempts=map(attempt_message, attempts),
            )

        return await asyncio.to_thread(get)

    async def List(self, request: jobs_pb2.ListRequest, context: Any) -> jobs_pb2.ListResponse:  # noqa: N802
        """Lists jobs, newest first, without recipes and results."""
        del context
        if request.kind and request.kind not in Kind.__members__:
            raise _no_kind(request.kind, Kind)
        size = _page_size(request.page_size)
        with _field("states"):
            states = [state_of(state) for state in request.states]

        def find() -> jobs_pb2.ListResponse:
            page = queries.list_jobs(
                self._registry,
                states=states,
                kind=request.kind,
                include_children=request.include_children,
                labels=dict(request.labels),
                text=request.text,
                page_size=size,
                page_token=request.page_token,
            )
            messages = [job_message(job, whole=False, progress=self._progress(job)) for job in page.jobs]
            return jobs_pb2.ListResponse(jobs=messages, next_page_token=page.next_token)

        with _field("page_token"):
            return await asyncio.to_thread(find)

    def _progress(self, job: JobRecord) -> Progress | None:
        """Returns how far a running job has come."""
        running = job.state == JobState.RUNNING
        return last_progress(self.context.home, job.id, job.attempt) if running else None

    async def Watch(  # noqa: N802
        self, request: jobs_pb2.WatchRequest, context: Any
    ) -> AsyncIterator[jobs_pb2.WatchResponse]:
        """Streams all events of a job from its first one on, and how it stands, until it has ended."""
        del context
        job = await self._find(request.id)
        watched = Watched(self._registry, self.context.home, job.id)
        while not watched.over:
            replies = await asyncio.to_thread(watched.look)
            for reply in replies:
                yield reply
            if not replies:
                await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def StreamLogs(  # noqa: N802
        self, request: jobs_pb2.StreamLogsRequest, context: Any
    ) -> AsyncIterator[jobs_pb2.StreamLogsResponse]:
        """Streams the lines of a job's processes, all there are or all there will be."""
        del context
        job = await self._find(request.id)
        logged = Logged(self._registry, self.context.home, job.id)
        while not logged.over:
            replies = await asyncio.to_thread(logged.look)
            for reply in replies:
                yield reply
            if not replies:
                if not request.follow:
                    return
                await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)

    async def Cancel(self, request: jobs_pb2.CancelRequest, context: Any) -> jobs_pb2.CancelResponse:  # noqa: N802
        """Ends a job that waits; asks one that runs to end."""
        del context

        def cancel() -> jobs_pb2.CancelResponse:
            job = find_job(self._registry, request.id)
            return jobs_pb2.CancelResponse(job=job_message(control.cancel(self._registry, job.id)))

        return await asyncio.to_thread(cancel)

    async def Resume(self, request: jobs_pb2.ResumeRequest, context: Any) -> jobs_pb2.ResumeResponse:  # noqa: N802
        """Puts a job that failed or was cancelled on the queue again, under another topology if one is given."""
        del context

        def resume() -> jobs_pb2.ResumeResponse:
            job = find_job(self._registry, request.id)
            topologies = topologies_of(
                [job, *queries.children(self._registry, job.parent_id or job.id)],
                plain_of(request.topology) if request.HasField("topology") else None,
                plain_of(request.overrides),
            )
            return jobs_pb2.ResumeResponse(job=job_message(control.resume(self._registry, job.id, topologies)))

        return await asyncio.to_thread(resume)

    async def _find(self, text: str) -> JobRecord:
        return await asyncio.to_thread(find_job, self._registry, text)

    # --- schedules ----------------------------------------------------------------------------------------------

    async def PutSchedule(  # noqa: N802
        self, request: jobs_pb2.PutScheduleRequest, context: Any
    ) -> jobs_pb2.PutScheduleResponse:
        """Makes a schedule, or puts it in the place of the one of its name."""
        del context

        def put() -> jobs_pb2.PutScheduleResponse:
            asked = self._request(request)
            check_order(parts_of(asked))
            check_webhooks(asked, self.context.manifest.cluster.security.webhook_hosts)
            check_urls(parts_of(asked), self.context.manifest.cluster)
            return jobs_pb2.PutScheduleResponse(schedule=schedule_message(put_schedule(self._registry, asked)))

        return await asyncio.to_thread(put)

    async def ListSchedules(  # noqa: N802
        self, request: jobs_pb2.ListSchedulesRequest, context: Any
    ) -> jobs_pb2.ListSchedulesResponse:
        """Lists schedules by name."""
        del request, context
        found = await asyncio.to_thread(schedules, self._registry)
        return jobs_pb2.ListSchedulesResponse(schedules=map(schedule_message, found))

    async def DeleteSchedule(  # noqa: N802
        self, request: jobs_pb2.DeleteScheduleRequest, context: Any
    ) -> jobs_pb2.DeleteScheduleResponse:
        """Ends a schedule."""
        del context
        removed = await asyncio.to_thread(remove_schedule, self._registry, request.name)
        return jobs_pb2.DeleteScheduleResponse(schedule=schedule_message(removed))

    # --- artifacts ----------------------------------------------------------------------------------------------

    async def ListArtifacts(  # noqa: N802
        self, request: jobs_pb2.ListArtifactsRequest, context: Any
    ) -> jobs_pb2.ListArtifactsResponse:
        """Lists artifacts, newest first, without what is in them."""
        del context
        if request.kind and request.kind not in ArtifactKind.__members__:
            raise _no_kind(request.kind, ArtifactKind)
        before = _artifact_token(request.page_token)
        size = _page_size(request.page_size)

        def find() -> jobs_pb2.ListArtifactsResponse:
            records = sorted(self._registry.artifacts(request.kind or None), key=lambda record: -record.id)
            found = [record for record in records if before is None or record.id < before]
            token = str(found[size - 1].id) if len(found) > size else ""
            messages = [artifact_message(record) for record in found[:size]]
            return jobs_pb2.ListArtifactsResponse(artifacts=messages, next_page_token=token)

        return await asyncio.to_thread(find)

    async def GetArtifact(  # noqa: N802
        self, request: jobs_pb2.GetArtifactRequest, context: Any
    ) -> jobs_pb2.GetArtifactResponse:
        """Returns one artifact with what it was made from and what was made from it."""
        del context
        return await asyncio.to_thread(lambda: self._artifact(self._store.find(request.reference)))

    def _artifact(self, record: ArtifactRecord) -> jobs_pb2.GetArtifactResponse:
        handle = self._store.open_record(record)
        message = artifact_message(
            record,
            location=str(handle.path),
            metadata=handle.metadata,
            used_by=self._registry.made_from(record.id),
        )
        return jobs_pb2.GetArtifactResponse(artifact=message)

    async def CollectGarbage(  # noqa: N802
        self, request: jobs_pb2.CollectGarbageRequest, context: Any
    ) -> jobs_pb2.CollectGarbageResponse:
        """Removes what is not kept, or tells it."""
        del context
        retention = replace(self.context.manifest.cluster.retention)
        if request.HasField("artifact_versions"):
            retention.artifact_versions = request.artifact_versions
        if request.HasField("run_days"):
            retention.run_days = request.run_days
        for name, smallest in (("artifact_versions", 1), ("run_days", 0)):
            if not getattr(retention, name) >= smallest:
                problem = f"expected at least {smallest}, found {getattr(retention, name)}"
                raise InvalidArgument(f"{name}: {problem}", {name: problem})
        found = await asyncio.to_thread(
            collect_garbage, self._store, self.context.home, retention, dry_run=request.dry_run
        )
        return jobs_pb2.CollectGarbageResponse(
            artifacts=map(artifact_message, found.artifacts),
            runs=[jobs_pb2.RunFolder(job_id=run.job_id, size_bytes=run.size_bytes) for run in found.runs],
            leftovers=found.leftovers,
        )

    # --- the stack ----------------------------------------------------------------------------------------------

    async def GetStatus(  # noqa: N802
        self, request: jobs_pb2.GetStatusRequest, context: Any
    ) -> jobs_pb2.GetStatusResponse:
        """Returns what the registry knows of the stack's processes and of jobs in all."""
        del request, context

        def look() -> jobs_pb2.GetStatusResponse:
            workers = [
                jobs_pb2.Worker(
                    id=worker.id,
                    service=worker.service,
                    version=worker.version,
                    host=worker.host,
                    job_id=worker.job_id or "",
                )
                for worker in claims.workers(self._registry)
            ]
            return jobs_pb2.GetStatusResponse(
                version=VERSION,
                workers=workers,
                jobs_by_state={str(s): n for s, n in queries.jobs_by_state(self._registry).items()},
                reconciler_active=queries.lease_holder(self._registry, RECONCILER) is not None,
            )

        return await asyncio.to_thread(look)


def _address(manifest: ClusterManifest, service: str | None) -> str:
    """Returns ` at HOST:PORT` of a service; nothing where the cluster has none."""
    section = getattr(manifest.cluster.services, service or "", None)
    return "" if section is None else f" at {join_address(section.host, section.port)}"


def _page_size(wanted: int) -> int:
    if wanted < 0:
        raise InvalidArgument(f"page_size: expected 0 or more, found {wanted}", {"page_size": "is negative"})
    return min(wanted or _PAGE, _LARGEST_PAGE)


def _artifact_token(token: str) -> int | None:
    if token and not _TOKEN.fullmatch(token):
        raise InvalidArgument(f"page_token: {shown(token)} is none of this list's", {"page_token": "is not ours"})
    return int(token) if token else None


def _no_kind(kind: str, kinds: Iterable[str]) -> InvalidArgument:
    return InvalidArgument(f"no kind {shown(kind)}; expected one of {', '.join(kinds)}", {"kind": "unknown"})


@contextmanager
def _field(name: str) -> Generator[None]:
    """Says of what is wrong with the input in the block which field of the request it is about."""
    try:
        yield
    except InputError as error:
        raise InvalidArgument(one_line(error), {name: one_line(error)}) from None


def _of_key(error: Exception) -> RpcError:
    key = error.key if isinstance(error, IdempotencyConflict) else ""
    return AlreadyExists("idempotency_key", key, one_line(error))


def _of_job(error: Exception) -> RpcError:
    return NotFound("job", error.job_id if isinstance(error, NoSuchJob) else "", one_line(error))


def _of_schedule(error: Exception) -> RpcError:
    return NotFound("schedule", error.name if isinstance(error, NoSuchSchedule) else "", one_line(error))


def _of_artifact(error: Exception) -> RpcError:
    found = error if isinstance(error, ArtifactNotFound) else ArtifactNotFound("")
    return NotFound(found.kind, found.reference, one_line(error))


TRANSLATIONS: Translations = {
    control.JobNotFound: _of_job,
    NoSuchSchedule: _of_schedule,
    ArtifactNotFound: _of_artifact,
    ArtifactDamaged: lambda error: FailedPrecondition(one_line(error)),
    IdempotencyConflict: _of_key,
    control.WrongJobState: lambda error: FailedPrecondition(one_line(error)),
    RegistryAway: lambda error: Unavailable(one_line(error), retry_after=_REGISTRY_RETRY_SECONDS),
}
"""What errors of jobs and artifacts mean on the wire."""
