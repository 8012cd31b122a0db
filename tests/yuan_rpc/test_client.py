"""Retries, deadlines, versions, and what a user reads of a server that is not there."""

import asyncio
import subprocess
import threading
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from tests.machine import free_port
from tests.yuan_rpc.toys import ToyData, toy_server

from yuan_rpc import Connection, RpcFailed, RpcServer, VersionMismatch, check_version, failure_of
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc
from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from yuan_rpc.version import VERSION, VERSION_KEY

DESCRIBE = data_pb2.DescribeDatasetRequest(dataset="demo")
SAMPLE = data_pb2.SampleDatasetRequest()


def serve(data: ToyData, case: Callable[[RpcServer, Connection], Coroutine[None, None, None]]) -> None:
    """Runs a case against a server and a connection to it."""

    async def run() -> None:
        async with toy_server(data) as server, Connection("data", "127.0.0.1", server.port) as connection:
            await case(server, connection)

    asyncio.run(run())


def test_an_idempotent_call_is_repeated_until_a_server_is_available_again() -> None:
    data = ToyData(failures=2)

    async def case(server: RpcServer, connection: Connection) -> None:
        assert (await connection.aio_stub(data_pb2_grpc.DataServiceStub).DescribeDataset(DESCRIBE)).reference == "demo"

    serve(data, case)
    assert data.calls == ["DescribeDataset"] * 3


def test_sync_stubs_repeat_idempotent_calls_too() -> None:
    data = ToyData(failures=2)

    async def case(server: RpcServer, connection: Connection) -> None:
        stub = connection.stub(data_pb2_grpc.DataServiceStub)
        assert (await asyncio.to_thread(stub.DescribeDataset, DESCRIBE)).reference == "demo"

    serve(data, case)
    assert data.calls == ["DescribeDataset"] * 3


def test_a_server_that_stays_unavailable_is_not_asked_for_ever() -> None:
    data = ToyData(failures=100)

    async def case(server: RpcServer, connection: Connection) -> None:
        with pytest.raises(RpcFailed, match="not now"), connection.errors():
            await connection.aio_stub(data_pb2_grpc.DataServiceStub).DescribeDataset(DESCRIBE)

    serve(data, case)
    assert data.calls == ["DescribeDataset"] * 4


def test_a_call_that_changes_something_is_never_repeated() -> None:
    data = ToyData(failures=1)

    async def case(server: RpcServer, connection: Connection) -> None:
        with pytest.raises(RpcFailed, match="not now"), connection.errors():
            await connection.aio_stub(jobs_pb2_grpc.JobServiceStub).Submit(jobs_pb2.SubmitRequest())

    serve(data, case)
    assert data.calls == ["Submit"]


@pytest.mark.parametrize(("failures", "dataset", "message"), [(1, "", "not now"), (0, "broken", "the disk went away")])
def test_a_stream_is_never_repeated(failures: int, dataset: str, message: str) -> None:
    data = ToyData(failures=failures)

    async def case(server: RpcServer, connection: Connection) -> None:
        stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
        with pytest.raises(RpcFailed, match=message), connection.errors():
            async for _ in stub.SampleDataset(data_pb2.SampleDatasetRequest(dataset=dataset)):
                pass

    serve(data, case)
    assert data.calls == ["SampleDataset"]


def test_a_sync_stream_fails_with_the_same_line() -> None:
    async def case(server: RpcServer, connection: Connection) -> None:
        def read() -> list[int]:
            stub = connection.stub(data_pb2_grpc.DataServiceStub)
            with connection.errors():
                return [row.document for row in stub.SampleDataset(data_pb2.SampleDatasetRequest(dataset="broken"))]

        with pytest.raises(RpcFailed, match="the disk went away"):
            await asyncio.to_thread(read)

    serve(ToyData(), case)


def test_a_stack_that_is_down_is_told_with_the_way_to_start_it() -> None:
    port = free_port()
    with Connection("trainer", "127.0.0.1", port) as connection:
        with pytest.raises(RpcFailed) as caught, connection.errors():
            connection.stub(jobs_pb2_grpc.JobServiceStub).Submit(jobs_pb2.SubmitRequest())
        assert str(caught.value) == f"nothing answers at 127.0.0.1:{port} (trainer); start the stack with: yuan up"
        assert caught.value.exit_code == 2


def test_a_host_that_is_not_known_is_told() -> None:
    message = r"the host of no-such-host\.invalid:7102 \(trainer\) is not known"
    with (
        Connection("trainer", "no-such-host.invalid", 7102) as connection,
        pytest.raises(RpcFailed, match=message) as caught,
    ):
        connection.is_serving(timeout=20.0)
    assert caught.value.exit_code == 2


class ClosedByServer(grpc.RpcError):
    """What a stub raises when the server closes the connection."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Socket closed"


def test_a_server_that_ends_in_the_middle_is_no_bad_input_once_it_has_answered() -> None:
    failures = [failure_of(ClosedByServer(), "here (data)", has_answered=answered) for answered in (False, True)]
    assert [failure.exit_code for failure in failures] == [2, 1]
    assert {str(failure) for failure in failures} == {
        "here (data) closed the connection: it was stopped, or it speaks TLS (cluster.security.tls)"
    }


def test_a_connection_knows_that_its_server_has_answered() -> None:
    async def case(server: RpcServer, connection: Connection) -> None:
        assert connection.failure(ClosedByServer()).exit_code == 2
        await asyncio.to_thread(connection.is_serving)
        assert connection.failure(ClosedByServer()).exit_code == 1

    serve(ToyData(), case)


def test_a_port_that_something_else_listens_on_fails_in_one_line() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        with Connection("trainer", "127.0.0.1", other.server_port) as connection, pytest.raises(RpcFailed) as caught:
            connection.is_serving()
        other.shutdown()
        thread.join()
    assert f"what answers at 127.0.0.1:{other.server_port} (trainer) is no gRPC server" in str(caught.value)


def test_a_unary_call_has_a_deadline_although_none_was_given() -> None:
    async def run() -> None:
        data = ToyData()
        async with (
            toy_server(data) as server,
            Connection("data", "127.0.0.1", server.port, timeout=1.0) as connection,
        ):
            with pytest.raises(RpcFailed, match=r"\(data\) did not answer in time") as caught, connection.errors():
                await connection.aio_stub(data_pb2_grpc.DataServiceStub).Tokenize(data_pb2.TokenizeRequest(text="wait"))
            assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
            await data.released.wait()

    asyncio.run(run())


def test_a_call_that_the_server_does_not_know_is_told() -> None:
    async def case(server: RpcServer, connection: Connection) -> None:
        stub = connection.aio_stub(inference_pb2_grpc.InferenceServiceStub)
        with pytest.raises(RpcFailed, match="does not know this call; is it of another version"), connection.errors():
            await stub.GetModelInfo(inference_pb2.GetModelInfoRequest())

    serve(ToyData(), case)


def test_every_reply_carries_the_servers_version() -> None:
    async def case(server: RpcServer, connection: Connection) -> None:
        stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
        for text in ("a", "missing", "bug"):
            call = stub.Tokenize(data_pb2.TokenizeRequest(text=text))
            await call.code()
            assert dict(await call.trailing_metadata())[VERSION_KEY] == VERSION
        stream = stub.SampleDataset(SAMPLE)
        assert len([message async for message in stream]) == 2
        assert dict(await stream.trailing_metadata())[VERSION_KEY] == VERSION
        await asyncio.to_thread(connection.check_version)

    serve(ToyData(), case)


def test_a_client_of_another_version_is_served_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def case(server: RpcServer, connection: Connection) -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = data_pb2_grpc.DataServiceStub(channel)
            for _ in range(2):
                await stub.Tokenize(data_pb2.TokenizeRequest(text="a"), metadata=((VERSION_KEY, "9.9"),))

    serve(ToyData(), case)
    assert [record.getMessage() for record in caplog.records if "9.9" in record.getMessage()] == [
        f"data runs version {VERSION} and is called by version 9.9"
    ]


def test_two_versions_in_one_stack_are_told_apart() -> None:
    check_version("worker data-1", VERSION)
    with pytest.raises(VersionMismatch, match=r"worker data-1 runs version 0\.0\.1 and the server version 0\.2\.0"):
        check_version("worker data-1", "0.0.1", against="0.2.0", against_name="the server")


def test_waiting_finds_a_server_that_comes_up_later_and_ends_with_one_that_never_does(
    start_process: Callable[[], tuple["subprocess.Popen[str]", int]],
) -> None:
    process, port = start_process()
    with Connection("data", "127.0.0.1", port) as connection:
        assert connection.wait_until_serving(60.0)
        process.kill()
        process.wait()
        assert not connection.wait_until_serving(60.0, give_up=lambda: process.poll() is not None)


def test_a_connection_outlives_a_restart_of_its_server() -> None:
    async def run() -> None:
        port = free_port()
        async with Connection("data", "127.0.0.1", port) as connection:
            stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
            async with toy_server(ToyData(), port=port):
                await stub.DescribeDataset(DESCRIBE)
            with pytest.raises(RpcFailed, match="nothing answers"), connection.errors():
                await stub.DescribeDataset(DESCRIBE)
            async with toy_server(ToyData(), port=port):
                assert await asyncio.to_thread(connection.wait_until_serving, 60.0)
                await stub.DescribeDataset(DESCRIBE, wait_for_ready=True)

    asyncio.run(run())
