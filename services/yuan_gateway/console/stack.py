"""What the console asks of the services, each call with the visitor's own token.

As `JobClient` does for one user: any job server answers questions on jobs, since the registry is one.
"""

from collections.abc import AsyncGenerator
from typing import Any, cast

from grpc_health.v1 import health_pb2, health_pb2_grpc

from yuan_events import InputError
from yuan_jobs.client import JOB_SERVERS
from yuan_manifest import Cluster
from yuan_rpc import Connection, RpcFailed, Security, StatusCode, security_of
from yuan_rpc.data.v1 import data_pb2_grpc
from yuan_rpc.inference.v1 import inference_pb2_grpc
from yuan_rpc.jobs.v1 import jobs_pb2_grpc
from yuan_rpc.security import TOKEN_KEY, bearer

SECONDS = 10.0
"""A page waits no longer for a service."""

_DATA_SECONDS = 60.0
"""Looking into a dataset decodes some of its documents."""


class Stack:
    """Connections to the services of a cluster, opened when they are first used; all in one event loop."""

    def __init__(self, cluster: Cluster) -> None:
        """Args: cluster: where the services are."""
        self.cluster = cluster
        security = security_of(cluster.security)
        # Visitors bring their own tokens.
        self._security = Security(tls=security.tls, plaintext=security.plaintext)
        self._connections: dict[str, Connection] = {}
        self._job_servers = [name for name in JOB_SERVERS if self.has(name)]

    def has(self, service: str) -> bool:
        """Returns whether the cluster has a service."""
        return getattr(self.cluster.services, service, None) is not None

    async def jobs(self, method: str, request: Any, token: str | None) -> Any:
        """Calls `JobService` of the first job server that answers, and of that one from then on.

        Raises:
            InputError: if the cluster has none.
            RpcFailed: if the call fails, or no server answers.
        """
        silent: RpcFailed | None = None
        for service in self._asked_servers():
            try:
                return await self._call(service, jobs_pb2_grpc.JobServiceStub, method, request, token, SECONDS)
            except RpcFailed as error:
                if error.code is not StatusCode.UNAVAILABLE:
                    raise
                silent = silent or error
                self._put_last(service)
        assert silent is not None  # noqa: S101 - there is at least one server
        raise silent

    async def job_stream(self, method: str, request: Any, token: str | None) -> AsyncGenerator[Any]:
        """Yields the replies of one of `JobService`'s streams, from a server that has answered last.

        Raises:
            InputError, RpcFailed: as `jobs`.
        """
        service = self._asked_servers()[0]
        connection = self._connection(service)
        with connection.errors():
            stub = cast("Any", connection.aio_stub(jobs_pb2_grpc.JobServiceStub))
            stream = getattr(stub, method)(request, metadata=_metadata(token))
            try:
                async for reply in stream:
                    yield reply
            finally:
                stream.cancel()

    async def data(self, method: str, request: Any, token: str | None) -> Any:
        """Calls `DataService`.

        Raises:
            InputError, RpcFailed: as `jobs`.
        """
        return await self._call("data", data_pb2_grpc.DataServiceStub, method, request, token, _DATA_SECONDS)

    async def samples(self, request: Any, token: str | None) -> list[Any]:
        """Returns what `DataService.SampleDataset` streams.

        Raises:
            InputError, RpcFailed: as `jobs`.
        """
        connection = self._connection("data")
        with connection.errors(_DATA_SECONDS):
            stub = cast("Any", connection.aio_stub(data_pb2_grpc.DataServiceStub))
            stream = stub.SampleDataset(request, metadata=_metadata(token), timeout=_DATA_SECONDS)
            return [reply async for reply in stream]

    async def inference(self, method: str, request: Any, token: str | None) -> Any:
        """Calls `InferenceService`.

        Raises:
            InputError, RpcFailed: as `jobs`.
        """
        return await self._call("inference", inference_pb2_grpc.InferenceServiceStub, method, request, token, SECONDS)

    async def is_serving(self, service: str) -> bool:
        """Asks a service's health.

        Raises:
            InputError: if its TLS files are wrong.
            RpcFailed: if it does not answer.
        """
        request = health_pb2.HealthCheckRequest()
        reply = await self._call(service, health_pb2_grpc.HealthStub, "Check", request, None, 2.0)
        return reply.status == health_pb2.HealthCheckResponse.SERVING

    async def close(self) -> None:
        """Closes all connections."""
        for connection in self._connections.values():
            await connection.aclose()
        self._connections.clear()

    async def _call(  # noqa: PLR0917 - as a stub's call
        self, service: str, stub: Any, method: str, request: Any, token: str | None, seconds: float
    ) -> Any:
        connection = self._connection(service)
        with connection.errors(seconds):
            made = cast("Any", connection.aio_stub(stub))
            return await getattr(made, method)(request, metadata=_metadata(token), timeout=seconds)

    def _connection(self, service: str) -> Connection:
        if service not in self._connections:
            section = getattr(self.cluster.services, service, None)
            if section is None:
                raise InputError(f"this cluster has no {service} service; see cluster.services")
            security_of(self.cluster.security).check_client(service, section.host)
            self._connections[service] = Connection(service, section.host, section.port, self._security)
        return self._connections[service]

    def _asked_servers(self) -> list[str]:
        if not self._job_servers:
            raise InputError(f"this cluster has no service that takes jobs ({', '.join(JOB_SERVERS)})")
        return list(self._job_servers)

    def _put_last(self, service: str) -> None:
        self._job_servers.remove(service)
        self._job_servers.append(service)


def _metadata(token: str | None) -> list[tuple[str, str]]:
    return [] if token is None else [(TOKEN_KEY, bearer(token))]
