"""Health, drain, deadlines, cancellation, limits, reflection, ports and metrics of a real server on a real port."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.yuan_rpc.toys import DATA, JOBS, ToyData, toy_server

from yuan_events import InputError
from yuan_rpc import Connection, RpcFailed, RpcServer, port_owner
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

Case = Callable[[ToyData, RpcServer, Connection], Coroutine[None, None, None]]


def serve(case: Case, **options: object) -> None:
    """Runs a case against a server and a connection to it."""

    async def run() -> None:
        data = ToyData()
        async with (
            toy_server(data, **options) as server,
            Connection("data", "127.0.0.1", server.port) as connection,
        ):
            await case(data, server, connection)

    asyncio.run(run())


def tokenize(text: str) -> data_pb2.TokenizeRequest:
    return data_pb2.TokenizeRequest(text=text)


def sample(dataset: str) -> data_pb2.SampleDatasetRequest:
    return data_pb2.SampleDatasetRequest(dataset=dataset)


def test_a_drain_tells_watchers_of_health_and_lets_a_running_stream_finish() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        health = connection.aio_stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest(service=DATA))
        assert (await health.read()).status == SERVING
        stream = connection.aio_stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("held"))
        assert (await stream.read()).document == 0
        stop = asyncio.ensure_future(server.stop())
        assert (await health.read()).status == NOT_SERVING
        await server.draining.wait()
        assert not stop.done()
        data.hold.set()
        assert (await stream.read()).document == 1
        assert await stream.code() == grpc.StatusCode.OK
        await stop

    serve(case, drain_seconds=60.0)


def test_a_draining_server_takes_no_new_calls() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stream = connection.aio_stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("held"))
        await stream.read()
        stop = asyncio.ensure_future(server.stop())
        await server.draining.wait()
        await asyncio.sleep(0)
        async with Connection("data", "127.0.0.1", server.port) as late:
            with pytest.raises(RpcFailed) as caught, late.errors():
                await late.aio_stub(data_pb2_grpc.DataServiceStub).Tokenize(tokenize("a"))
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        data.hold.set()
        await stop

    serve(case, drain_seconds=60.0)


def test_calls_that_come_just_when_a_drain_begins_are_answered_or_told_to_come_again() -> None:
    codes: list[grpc.StatusCode] = []

    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stream = connection.aio_stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("held"))
        await stream.read()
        stop = asyncio.ensure_future(server.stop())
        await asyncio.sleep(0.01)
        stub = connection.stub(data_pb2_grpc.DataServiceStub)
        calls = [stub.Tokenize.future(tokenize("a"), timeout=60) for _ in range(100)]
        time.sleep(0.3)  # the server is busy, and they queue up at its port
        codes.extend(await asyncio.gather(*(asyncio.to_thread(call.code) for call in calls)))
        data.hold.set()
        assert (await stream.read()).document == 1
        await stop

    serve(case, drain_seconds=60.0)
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, codes


def test_calls_that_come_all_through_a_drain_are_told_to_come_again() -> None:
    told: list[tuple[grpc.StatusCode, str]] = []

    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stream = connection.aio_stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("held"))
        await stream.read()
        stop = asyncio.ensure_future(server.stop())
        await server.draining.wait()

        async def go_on_calling() -> None:
            for _ in range(3):
                async with Connection("data", "127.0.0.1", server.port) as late:
                    call = late.aio_stub(data_pb2_grpc.DataServiceStub).Tokenize(tokenize("a"))
                    told.append((await _code(call), await call.details()))

        await asyncio.gather(*(go_on_calling() for _ in range(20)))
        data.hold.set()
        assert (await stream.read()).document == 1
        await stop

    serve(case, drain_seconds=60.0)
    assert {code for code, _ in told} == {grpc.StatusCode.UNAVAILABLE}, told
    assert all("shutting down" in details for _, details in told), told


def test_clients_that_left_while_they_were_answered_leave_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        del data, server, connection
        logger = logging.getLogger("grpc._cython.cygrpc")
        logger.error("ExecuteBatchError raised in core by servicer method [%s]", "/a.B/C")
        logger.error("another matter")

    serve(case)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("grpc.")] == ["another matter"]


def test_a_call_that_outlasts_the_drain_is_cut_off_and_frees_what_it_holds() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        call = connection.aio_stub(data_pb2_grpc.DataServiceStub).Tokenize(tokenize("wait"))
        waiting = asyncio.ensure_future(_code(call))
        await data.entered.wait()
        await server.stop(0.05)
        assert await waiting in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        await data.released.wait()

    serve(case)


def test_streams_without_an_end_are_ended_by_a_drain_as_unavailable() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stream = connection.aio_stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("endless"))
        await stream.read()
        await data.entered.wait()
        stop = asyncio.ensure_future(server.stop())
        with pytest.raises(RpcFailed, match="data is shutting down") as caught, connection.errors():
            await stream.read()
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        await data.released.wait()
        await stop

    serve(case, drain_seconds=60.0, end_at_drain=[f"/{DATA}/SampleDataset"])


def test_sigterm_drains_a_process_which_then_exits_cleanly(
    start_process: Callable[[], tuple["subprocess.Popen[str]", int]],
) -> None:
    process, port = start_process()
    with Connection("data", "127.0.0.1", port) as connection:
        stream = connection.stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("held"))
        assert next(stream).document == 0
        process.send_signal(signal.SIGTERM)
        assert next(stream).document == 1
        assert list(stream) == []
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, "stopped\n")


def test_a_second_signal_ends_running_calls_at_once(
    start_process: Callable[[], tuple["subprocess.Popen[str]", int]],
) -> None:
    process, port = start_process()
    with Connection("data", "127.0.0.1", port) as connection:
        watch = connection.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest())
        next(watch)
        stream = connection.stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("endless"))
        next(stream)
        process.send_signal(signal.SIGINT)
        # Once health says so, the first signal has been seen and the drain runs.
        assert next(watch).status == NOT_SERVING
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
        assert (process.returncode, out) == (0, "released\n")
        with pytest.raises(grpc.RpcError):
            next(stream)


def test_an_expired_deadline_reaches_the_handlers_finally() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
        assert await _code(stub.Tokenize(tokenize("wait"), timeout=1.0)) == grpc.StatusCode.DEADLINE_EXCEEDED
        await data.released.wait()

    serve(case)


@pytest.mark.parametrize("dataset", ["endless", "flood"])
def test_a_client_that_cancels_a_stream_frees_it_whether_it_waits_or_sends(dataset: str) -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stream = connection.aio_stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample(dataset))
        await stream.read()
        await data.entered.wait()
        stream.cancel()
        await data.released.wait()

    serve(case)


def test_a_client_that_goes_away_frees_its_stream() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        async with Connection("data", "127.0.0.1", server.port) as other:
            stream = other.aio_stub(data_pb2_grpc.DataServiceStub).SampleDataset(sample("endless"))
            await stream.read()
            await data.entered.wait()
        await data.released.wait()

    serve(case)


def test_ten_megabytes_pass_both_ways() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
        assert len((await stub.Tokenize(tokenize("big 10000000"))).pieces[0]) == 10_000_000
        await stub.Tokenize(tokenize("invalid" + " " * 10_000_000))

    serve(case)


def test_reflection_lists_every_service_and_describes_its_messages() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        def ask() -> tuple[list[str], str]:
            with grpc.insecure_channel(server.address) as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                return list(database.get_services()), database.FindFileContainingSymbol(JOBS).package

        services, package = await asyncio.to_thread(ask)
        reflection = "grpc.reflection.v1alpha.ServerReflection"
        assert set(services) == {DATA, JOBS, "grpc.health.v1.Health", reflection}
        assert package == "yuan.jobs.v1"

    serve(case)


def test_a_service_says_itself_whether_it_serves() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        await server.set_serving(False, DATA)
        assert not await asyncio.to_thread(connection.is_serving, DATA)
        assert await asyncio.to_thread(connection.is_serving, JOBS)
        assert await asyncio.to_thread(connection.is_serving)
        assert not await asyncio.to_thread(connection.is_serving, "yuan.nobody.v1.NobodyService")

    serve(case)


def test_a_taken_port_is_named_with_its_owner_and_the_key_to_change() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        with pytest.raises(InputError) as caught:
            await toy_server(ToyData(), port=server.port).start()
        text = str(caught.value)
        assert f"port {server.port} is taken by " in text
        assert f"(pid {os.getpid()})" in text
        assert "cluster.services.data.port" in text

    serve(case)


def test_the_owner_of_a_port_is_found_in_another_process_and_nobody_owns_a_free_one() -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    owner = port_owner(port)
    process.communicate("\n")
    assert owner is not None
    assert owner.endswith(f"(pid {process.pid})")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert port_owner(free.getsockname()[1]) is None


@pytest.mark.parametrize(
    ("bind", "message"),
    [("no-such-host.invalid", "no such host"), ("192.0.2.1", r"Cannot assign.*set cluster\.services\.data\.bind")],
)
def test_an_address_that_is_not_this_machines_is_one_line(bind: str, message: str, tmp_path: Path) -> None:
    from yuan_rpc import Security, ensure_token_file

    ensure_token_file(tmp_path / "token")
    security = Security(token_file=tmp_path / "token", plaintext=True)
    with pytest.raises(InputError, match=message):
        asyncio.run(toy_server(ToyData(), security, bind=bind).start())


def test_metrics_count_calls_by_method_and_code_and_measure_them() -> None:
    async def case(data: ToyData, server: RpcServer, connection: Connection) -> None:
        stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
        await stub.Tokenize(tokenize("a"))
        for text, timeout in (("missing", 60.0), ("bug", 60.0), ("abort", 60.0), ("wait", 1.0)):
            await _code(stub.Tokenize(tokenize(text), timeout=timeout))
        await data.released.wait()
        stream = stub.SampleDataset(sample("endless"))
        await stream.read()
        stream.cancel()
        page = await _page_with(server, 'grpc_code="CANCELLED"')
        for method, code in (
            ("Tokenize", "OK"),
            ("Tokenize", "NOT_FOUND"),
            ("Tokenize", "INTERNAL"),
            ("Tokenize", "DATA_LOSS"),
            ("Tokenize", "DEADLINE_EXCEEDED"),
            ("SampleDataset", "CANCELLED"),
        ):
            labels = f'grpc_code="{code}",grpc_method="{method}",grpc_service="{DATA}"'
            assert f"yuan_rpc_handled_total{{{labels}}} 1.0" in page
        assert f'yuan_rpc_handling_seconds_count{{grpc_method="Tokenize",grpc_service="{DATA}"}} 5.0' in page

    serve(case, metrics_port=0)


def test_a_taken_metrics_port_is_named() -> None:
    async def run(port: int) -> None:
        async with toy_server(ToyData(), metrics_port=port):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"metrics of data cannot listen on 127.0.0.1:{port}.*metrics_port"):
            asyncio.run(run(port))


async def _code(call: object) -> grpc.StatusCode:
    """Returns how a call ends."""
    with contextlib.suppress(grpc.RpcError):
        await call  # type: ignore[misc]
    return await call.code()  # type: ignore[attr-defined]


async def _page_with(server: RpcServer, text: str) -> str:
    """Returns the metrics page once it has a text; a cancelled call is counted a moment after its client has left."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as page:
            return page.read().decode()

    async def pages() -> AsyncIterator[str]:
        while True:
            yield await asyncio.to_thread(read)

    async for page in pages():
        if text in page:
            return page
    raise AssertionError
