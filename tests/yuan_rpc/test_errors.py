"""Errors on their way from a handler to a user."""

import asyncio
import logging

import grpc
import pytest
from tests.yuan_rpc.toys import ToyData, Unforeseen, toy_server

from yuan_events import InputError, Interrupted, WorkFailed
from yuan_manifest import ManifestError
from yuan_rpc import Connection, NotFound, RpcFailed
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc
from yuan_rpc.errors import as_rpc_error
from yuan_rpc.failures import relay


def fail(text: str, **options: object) -> RpcFailed:
    """Returns what a client makes of the toy's error of that name."""

    async def run() -> RpcFailed:
        async with (
            toy_server(ToyData(), **options) as server,
            Connection("data", "127.0.0.1", server.port) as connection,
        ):
            stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
            with pytest.raises(RpcFailed) as caught, connection.errors():
                await stub.Tokenize(data_pb2.TokenizeRequest(text=text))
            return caught.value

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "code", "exit_code", "message"),
    [
        ("invalid", "INVALID_ARGUMENT", 2, "text: is wrong; say something else"),
        ("missing", "NOT_FOUND", 2, "no tokenizer `dmeo`; did you mean `demo`?"),
        ("exists", "ALREADY_EXISTS", 2, "key `k` stands for another job"),
        ("early", "FAILED_PRECONDITION", 2, "nothing is deployed; run: yuan deploy MODEL"),
        ("full", "RESOURCE_EXHAUSTED", 1, "16 requests wait already; try again in 2.5 s"),
        ("away", "UNAVAILABLE", 1, "the store is away"),
        ("input", "INVALID_ARGUMENT", 2, "a plain input error; mend it"),
        ("work", "INTERNAL", 1, "loss is not a number at step 3"),
    ],
)
def test_an_error_arrives_with_its_status_its_line_and_its_exit_code(
    text: str, code: str, exit_code: int, message: str
) -> None:
    failed = fail(text)
    assert (failed.code.name, failed.exit_code, str(failed)) == (code, exit_code, message)
    assert isinstance(failed, InputError) == (exit_code == 2)


def test_details_arrive_with_the_error() -> None:
    assert fail("invalid").violations == {"text": "is wrong"}
    assert fail("missing").resource == ("tokenizer", "dmeo")
    assert fail("missing").reason == "NOT_FOUND"
    assert fail("full").retry_after == 2.5
    assert fail("away").retry_after == 0.5


def test_an_unexpected_exception_is_logged_by_the_server_and_hidden_from_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, logger="yuan_rpc.server"):
        failed = fail("bug")
    assert failed.code == grpc.StatusCode.INTERNAL
    assert "secret" not in str(failed)
    incident = str(failed).split()[-1]
    logged = [record for record in caplog.records if incident in record.getMessage()]
    assert len(logged) == 1
    assert logged[0].exc_info is not None
    assert isinstance(logged[0].exc_info[1], ZeroDivisionError)


def test_errors_of_other_layers_are_translated() -> None:
    failed = fail("unforeseen", translations={Unforeseen: lambda error: NotFound("thing", "x", f"no thing `{error}`")})
    assert (failed.code, str(failed)) == (grpc.StatusCode.NOT_FOUND, "no thing `x`")
    assert failed.reason == "UNFORESEEN"


def test_a_status_that_a_handler_sets_itself_passes_untouched() -> None:
    failed = fail("abort")
    assert failed.code == grpc.StatusCode.DATA_LOSS
    assert "the handler's own words" in str(failed)


def test_a_long_message_is_cut_so_that_any_client_takes_it() -> None:
    async def run() -> grpc.aio.AioRpcError:
        async with (
            toy_server(ToyData()) as server,
            # None of our options: a client of somebody else's.
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await data_pb2_grpc.DataServiceStub(channel).Tokenize(data_pb2.TokenizeRequest(text="long"))
            return caught.value

    error = asyncio.run(run())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith("错错错")
    assert (error.details() or "").endswith("…")


def test_a_manifests_error_names_its_key() -> None:
    meaning = as_rpc_error(ManifestError("job.yaml:3: train.steps: must be positive", key="train.steps"))
    assert meaning is not None
    assert meaning.code == grpc.StatusCode.INVALID_ARGUMENT
    assert "train.steps" in str(meaning.details()[0])


def test_interrupted_work_is_unavailable_and_failed_work_internal() -> None:
    for error, code in ((Interrupted("stopping"), "UNAVAILABLE"), (WorkFailed("no"), "INTERNAL")):
        meaning = as_rpc_error(error)
        assert meaning is not None
        assert meaning.code.name == code
    assert as_rpc_error(ValueError("x")) is None


def test_a_server_passes_on_what_another_one_says_but_not_that_its_own_token_is_refused() -> None:
    passed = relay(RpcFailed("no dataset `x`", grpc.StatusCode.NOT_FOUND, resource=("dataset", "x")))
    assert isinstance(passed, NotFound)
    assert passed.name == "x"
    assert relay(RpcFailed("wrong token", grpc.StatusCode.UNAUTHENTICATED)).code == grpc.StatusCode.INTERNAL
