"""Jobs of a stack, as a Python program sees them: submit, follow, steer, look; over gRPC.

    with JobClient(load_cluster().cluster) as jobs:
        job, reused = jobs.submit(request_of(job, steps, cluster))
        for reply in jobs.watch(job.id): ...

Which server is called is decided here: a job's own service takes it, any job server answers questions.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from yuan_events import InputError
from yuan_jobs.messages import state_numbers, struct_of
from yuan_jobs.requests import Request, request_to_plain
from yuan_jobs.states import JobState
from yuan_manifest import SERVICE_OF_KIND, Cluster
from yuan_rpc import Connection, RpcFailed, StatusCode, connect
from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc

JOB_SERVERS = ("data", "trainer", "converter", "evaluator")
"""Services whose servers have a JobService, in the order in which they are asked."""

PATIENCE_S = 60.0
"""How long a stream that broke is tried again."""

_SECONDS_BETWEEN_TRIES = 0.5
_PAGE = 500

_ReplyT = TypeVar("_ReplyT")


@dataclass
class JobClient:
    """Calls the job servers of one cluster; a context manager, which closes its connections.

    Attributes:
        cluster: where they are.
        patience: seconds for which `watch` and `logs` try again after their connection broke.
        notice: told in one line when that happens, and when they go on.
    """

    cluster: Cluster
    patience: float = PATIENCE_S
    notice: Callable[[str], None] = lambda line: None
    _connections: dict[str, Connection] = field(default_factory=dict[str, Connection])
    _answering: Connection | None = None

    # --- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, request: Request, *, force: bool = False, idempotency_key: str = "") -> tuple[jobs_pb2.Job, bool]:
        """Submits a job or a pipeline.

        Args:
            request: what is to be done.
            force: do it anew whatever was done before.
            idempotency_key: two submits with the same key are one; empty: none.

        Returns:
            The job; whether it was there before: waiting, at work or done.

        Raises:
            InputError: if the cluster has no service for it, or the server refuses it.
            RpcFailed: if the server does not answer.
        """
        job, topology = request_to_plain(request)
        message = jobs_pb2.SubmitRequest(
            job=struct_of(job), topology=struct_of(topology), force=force, idempotency_key=idempotency_key
        )
        connection = self._taker(request)
        with connection.errors():
            reply = connection.stub(jobs_pb2_grpc.JobServiceStub).Submit(message)
        return reply.job, reply.reused

    def put_schedule(self, request: Request) -> jobs_pb2.Schedule:
        """Lets a request run when its `scheduling.cron` says, in place of the schedule of its name.

        Raises:
            InputError: if the cluster has no service for it, or the server refuses it.
            RpcFailed: if the server does not answer.
        """
        job, topology = request_to_plain(request)
        message = jobs_pb2.PutScheduleRequest(job=struct_of(job), topology=struct_of(topology))
        connection = self._taker(request)
        with connection.errors():
            return connection.stub(jobs_pb2_grpc.JobServiceStub).PutSchedule(message).schedule

    def schedules(self) -> list[jobs_pb2.Schedule]:
        """Returns all schedules, by name."""
        connection = self._answer()
        with connection.errors():
            stub = connection.stub(jobs_pb2_grpc.JobServiceStub)
            return list(stub.ListSchedules(jobs_pb2.ListSchedulesRequest()).schedules)

    def delete_schedule(self, name: str) -> jobs_pb2.Schedule:
        """Ends a schedule; returns it as it was."""
        connection = self._answer()
        with connection.errors():
            stub = connection.stub(jobs_pb2_grpc.JobServiceStub)
            return stub.DeleteSchedule(jobs_pb2.DeleteScheduleRequest(name=name)).schedule

    def _taker(self, request: Request) -> Connection:
        """Returns a connection to who takes a request: its service; any server takes a pipeline, or says who would."""
        service = SERVICE_OF_KIND[request.kind]
        return self._connection(service) if service and self._has(service) else self._answer()

    def get(self, job_id: str) -> jobs_pb2.GetResponse:
        """Returns a job, by its id or the unique beginning of it, with the steps that it has as a pipeline.

        Raises:
            RpcRefused: if there is none of that id.
        """
        connection = self._answer()
        with connection.errors():
            return connection.stub(jobs_pb2_grpc.JobServiceStub).Get(jobs_pb2.GetRequest(id=job_id))

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        kind: str = "",
        include_children: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[jobs_pb2.Job]:
        """Yields jobs, newest first, without recipe, topology and result."""
        connection = self._answer()
        stub = connection.stub(jobs_pb2_grpc.JobServiceStub)
        request = jobs_pb2.ListRequest(
            states=state_numbers(states), kind=kind, include_children=include_children, page_size=_PAGE, labels=labels
        )
        while True:
            with connection.errors():
                reply = stub.List(request)
            yield from reply.jobs
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    def cancel(self, job_id: str) -> jobs_pb2.Job:
        """Ends a job that waits, asks one that runs to end; returns it."""
        connection = self._answer()
        with connection.errors():
            return connection.stub(jobs_pb2_grpc.JobServiceStub).Cancel(jobs_pb2.CancelRequest(id=job_id)).job

    def resume(
        self, job_id: str, topology: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
    ) -> jobs_pb2.Job:
        """Puts a job that failed or was cancelled on the queue again; returns it.

        Args:
            job_id: the job.
            topology: the cluster's, under what the job's own manifest says; None: that of the last attempt.
            overrides: what of it is to be otherwise, over both.
        """
        request = jobs_pb2.ResumeRequest(id=job_id, overrides=struct_of(overrides or {}))
        if topology is not None:
            request.topology.CopyFrom(struct_of(topology))
        connection = self._answer()
        with connection.errors():
            return connection.stub(jobs_pb2_grpc.JobServiceStub).Resume(request).job

    def watch(self, job_id: str) -> Iterator[jobs_pb2.WatchResponse]:
        """Yields all events of a job from its first one on, and how it stands, until it has ended.

        Where the connection breaks it is made anew, and the stream goes on where it was.

        Args:
            job_id: the whole id.

        Raises:
            RpcFailed: if there is no such job, or no server answers for as long as `patience`.
        """
        standings: dict[str, tuple[object, ...]] = {}

        def is_new(reply: jobs_pb2.WatchResponse) -> bool:
            if not reply.HasField("job"):
                return True
            standing = (reply.job.state, reply.job.desired, reply.job.attempt, reply.job.reason)
            known = standings.get(reply.job_id)
            standings[reply.job_id] = standing
            return standing != known

        def of_event(reply: jobs_pb2.WatchResponse) -> object:
            return None if reply.HasField("job") else reply.job_id

        request = jobs_pb2.WatchRequest(id=job_id)
        for reply in self._going_on(lambda stub: stub.Watch(request), of_event):
            if is_new(reply):
                yield reply

    def logs(self, job_id: str, *, follow: bool = False) -> Iterator[jobs_pb2.StreamLogsResponse]:
        """Yields the lines of a job's processes: all there are, or with `follow` all there will be."""
        request = jobs_pb2.StreamLogsRequest(id=job_id, follow=follow)
        yield from self._going_on(lambda stub: stub.StreamLogs(request), lambda reply: (reply.source, reply.attempt))

    # --- artifacts, the stack --------------------------------------------------------------------------------------

    def artifacts(self, kind: str = "") -> Iterator[jobs_pb2.Artifact]:
        """Yields artifacts, newest first, without what is in them."""
        connection = self._answer()
        stub = connection.stub(jobs_pb2_grpc.JobServiceStub)
        request = jobs_pb2.ListArtifactsRequest(kind=kind, page_size=_PAGE)
        while True:
            with connection.errors():
                reply = stub.ListArtifacts(request)
            yield from reply.artifacts
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    def artifact(self, reference: str) -> jobs_pb2.Artifact:
        """Returns an artifact by `[kind/]name[@version]`."""
        connection = self._answer()
        with connection.errors():
            request = jobs_pb2.GetArtifactRequest(reference=reference)
            return connection.stub(jobs_pb2_grpc.JobServiceStub).GetArtifact(request).artifact

    def collect_garbage(
        self, *, dry_run: bool, artifact_versions: int | None = None, run_days: float | None = None
    ) -> jobs_pb2.CollectGarbageResponse:
        """Removes what is not kept, or only tells it; None: as the stack's own manifest says."""
        connection = self._answer()
        with connection.errors():
            request = jobs_pb2.CollectGarbageRequest(
                dry_run=dry_run, artifact_versions=artifact_versions, run_days=run_days
            )
            return connection.stub(jobs_pb2_grpc.JobServiceStub).CollectGarbage(request)

    def status(self) -> jobs_pb2.GetStatusResponse:
        """Returns what the registry knows of workers and of jobs in all."""
        connection = self._answer()
        with connection.errors():
            return connection.stub(jobs_pb2_grpc.JobServiceStub).GetStatus(jobs_pb2.GetStatusRequest())

    def reach(self) -> None:
        """Checks that a job server answers.

        Raises:
            InputError: if the cluster has none, or its token or TLS files are wrong.
            RpcFailed: if none answers.
        """
        self._answer()

    @contextmanager
    def answering(self) -> Generator[Connection]:
        """Gives a connection to a job server that answers, for calls of other services that it has."""
        connection = self._answer()
        with connection.errors():
            yield connection

    # --- connections -------------------------------------------------------------------------------------------------

    def _has(self, service: str) -> bool:
        """Returns whether the cluster has a service, and that takes jobs."""
        return service in JOB_SERVERS and getattr(self.cluster.services, service, None) is not None

    def _connection(self, service: str) -> Connection:
        if service not in self._connections:
            self._connections[service] = connect(service, self.cluster)
        return self._connections[service]

    def _answer(self) -> Connection:
        """Returns a connection to a job server that answers; the same one for as long as it does.

        Raises:
            InputError: if the cluster has none.
            RpcFailed: if none answers.
        """
        if self._answering is not None:
            return self._answering
        services = [name for name in JOB_SERVERS if self._has(name)]
        if not services:
            raise InputError(f"this cluster has no service that takes jobs ({', '.join(JOB_SERVERS)})")
        silent: RpcFailed | None = None
        for service in services:
            connection = self._connection(service)
            try:
                if connection.is_serving():
                    self._answering = connection
                    return connection
            except RpcFailed as error:
                if error.code != StatusCode.UNAVAILABLE:
                    raise
                silent = silent or error
        raise silent or RpcFailed("the stack is shutting down", StatusCode.UNAVAILABLE)

    def _going_on(
        self,
        start: Callable[[jobs_pb2_grpc.JobServiceStub], Iterator[_ReplyT]],
        series_of: Callable[[_ReplyT], object],
    ) -> Iterator[_ReplyT]:
        """Yields a stream's replies, starting it anew where it breaks.

        Every such stream begins at its beginning, and within a series its replies are always the same: as many as
        have been yielded are passed over.

        Args:
            start: begins the stream.
            series_of: which series a reply belongs to; None: it is yielded however often it comes.
        """
        yielded: Counter[object] = Counter()
        begun = False
        give_up = 0.0
        while True:
            passed: Counter[object] = Counter()
            try:
                connection = self._answer()
                stream: Any = start(connection.stub(jobs_pb2_grpc.JobServiceStub))
                with connection.errors(), _ended(stream):
                    for reply in cast("Iterator[_ReplyT]", stream):
                        if give_up:
                            self.notice("connected again")
                        begun, give_up = True, 0.0
                        series = series_of(reply)
                        if series is not None:
                            passed[series] += 1
                            if passed[series] <= yielded[series]:
                                continue
                            yielded[series] += 1
                        yield reply
                return
            except RpcFailed as error:
                if error.code != StatusCode.UNAVAILABLE or not begun:
                    raise
                self._answering = None
                if not give_up:
                    give_up = time.monotonic() + self.patience
                    self.notice("the connection is lost; trying again")
                elif time.monotonic() > give_up:
                    raise RpcFailed(str(error), error.code) from None  # it did answer before: that is no bad input
                time.sleep(_SECONDS_BETWEEN_TRIES)

    def close(self) -> None:
        """Closes all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._answering = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _ended(stream: Any) -> Generator[None]:
    """Ends a stream on the server too when whoever reads it here has had enough."""
    try:
        yield
    finally:
        stream.cancel()
