"""Roles and tokens: what each may call, several at once, their end, and that files are read anew."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection
from tests.yuan_rpc.toys import ToyData, toy_server

from yuan_events import InputError
from yuan_manifest.schema import Role
from yuan_rpc import (
    Caller,
    Callers,
    Connection,
    PermissionDenied,
    RpcFailed,
    RpcRefused,
    Security,
    Tenant,
    Unauthenticated,
    ensure_token_file,
)
from yuan_rpc.access import RULES, UNKNOWN, rule_of
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc
from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc
from yuan_rpc.security import bearer, read_token, read_tokens
from yuan_rpc.tokens import TokenStore, read_issued

PROTOS = Path("protos/yuan")


def all_methods() -> list[str]:
    """Returns the full names of all methods of all protos in the repository."""
    repository = Path(__file__).parents[2]
    found: list[str] = []
    for file in sorted((repository / PROTOS).glob("*/v1/*.proto")):
        module = import_module(f"yuan_rpc.{file.parent.parent.name}.v1.{file.stem}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found.extend(f"/{service.full_name}/{method.name}" for method in service.methods)
    return found


@pytest.fixture
def store(token: Security) -> TokenStore:
    """The issued tokens of a stack that has its own one."""
    assert token.token_file is not None
    return TokenStore(token.token_file.with_name("tokens.json"))


@pytest.fixture
def security(token: Security) -> Security:
    assert token.token_file is not None
    return replace(token, tokens=token.token_file.with_name("tokens.json"))


def with_token(path: Path, token: str) -> Security:
    path.touch(0o600)
    path.write_text(token + "\n")
    return Security(path)


def test_every_method_of_every_service_stands_in_the_table_and_nothing_else_does() -> None:
    there = {*all_methods(), f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"}
    assert len(there) > 30
    assert set(RULES) == there


def test_a_method_without_a_row_is_the_admins_and_is_told_of() -> None:
    assert rule_of("/yuan.jobs.v1.JobService/Explode") == UNKNOWN
    assert (UNKNOWN.role, UNKNOWN.changes) == (Role.admin, True)


@pytest.mark.parametrize(
    "method",
    [
        name
        for name in all_methods()
        if name.rpartition("/")[2].startswith(("Submit", "Cancel", "Resume", "Put", "Delete", "Load", "Unload", "Coll"))
    ],
)
def test_what_changes_something_is_not_for_a_viewer_and_is_told_of(method: str) -> None:
    rule = rule_of(method)
    assert rule.changes
    assert rule.about
    with pytest.raises(PermissionDenied):
        Caller("eve", Role.viewer).require(rule.role, method)


def test_a_viewer_reads_and_is_refused_the_rest_in_one_line(
    security: Security, store: TokenStore, tmp_path: Path
) -> None:
    _, secret = store.issue("vera", Role.viewer)
    viewer = with_token(tmp_path / "vera", secret)

    async def run() -> tuple[list[str], str]:
        data = ToyData()
        async with (
            toy_server(data, security) as server,
            Connection("data", "127.0.0.1", server.port, viewer) as connection,
        ):
            with connection.errors():
                reply = await connection.aio_stub(data_pb2_grpc.DataServiceStub).Tokenize(
                    data_pb2.TokenizeRequest(text="ab")
                )
            with pytest.raises(RpcRefused) as caught, connection.errors():
                await connection.aio_stub(jobs_pb2_grpc.JobServiceStub).Cancel(jobs_pb2.CancelRequest(id="x"))
            assert caught.value.code == grpc.StatusCode.PERMISSION_DENIED
            return list(reply.pieces), str(caught.value)

    pieces, refusal = asyncio.run(run())
    assert pieces == ["a", "b"]
    assert refusal == "Cancel is for the role operator and above; vera has viewer"


def test_the_stacks_own_token_is_the_admins(security: Security, store: TokenStore) -> None:
    store.issue("vera", Role.viewer)
    own = Callers("data", security).find(bearer(read_token(_file(security))))
    assert (str(own), own.role) == ("owner", Role.admin)


def test_a_name_has_several_tokens_at_once_until_one_is_taken_back(security: Security, store: TokenStore) -> None:
    callers = Callers("data", security)
    first, old = store.issue("vera", Role.viewer)
    _, new = store.issue("vera", Role.operator, limits={"requests_per_minute": 5})
    assert callers.find(bearer(old)).role is Role.viewer
    assert callers.find(bearer(new)).limits.requests_per_minute == 5
    store.revoke(first.id)
    assert callers.find(bearer(new)).role is Role.operator
    with pytest.raises(Unauthenticated, match="does not know"):
        callers.find(bearer(old))
    store.revoke("vera")
    with pytest.raises(Unauthenticated, match="does not know"):
        callers.find(bearer(new))


def test_an_issued_token_ends_and_a_new_one_may_end_the_others(security: Security, store: TokenStore) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    callers = Callers("data", security, now=lambda: now)
    _, old = store.issue("vera", Role.viewer, expires=now + timedelta(days=9))
    _, new = store.issue("vera", Role.viewer, others_end=now + timedelta(days=1))
    assert callers.find(bearer(old)).name == "vera"
    now += timedelta(days=1)
    with pytest.raises(Unauthenticated, match=r"the token of vera has expired \(2026-01-02"):
        callers.find(bearer(old))
    now += timedelta(days=1000)
    assert callers.find(bearer(new)).name == "vera"


def test_the_secret_stands_nowhere_but_with_its_holder(store: TokenStore, security: Security) -> None:
    made, secret = store.issue("vera", Role.viewer)
    text = _tokens(security).read_text()
    assert secret not in text
    assert secret.rpartition("_")[2] not in text
    assert made.sha256 in text
    assert _tokens(security).stat().st_mode & 0o777 == 0o600


def test_many_that_issue_tokens_at_once_lose_none(store: TokenStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: store.issue(f"n{number}", Role.viewer)[0], range(24)))
    assert sorted(one.name for one in store.all()) == sorted(one.name for one in made)


def test_the_stacks_token_changes_without_a_restart_and_without_a_gap(security: Security) -> None:
    file = _file(security)
    old = read_token(file)

    async def run() -> None:
        async with (
            toy_server(ToyData(), security) as server,
            Connection("data", "127.0.0.1", server.port, security) as client,
            Connection("data", "127.0.0.1", server.port, with_token(file.with_name("kept"), old)) as late,
        ):

            async def ask(connection: Connection) -> int:
                with connection.errors():
                    stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
                    return len((await stub.Tokenize(data_pb2.TokenizeRequest(text="ab"))).pieces)

            assert await ask(client) == await ask(late) == 2
            file.write_text(f"new-one\n{old}\n")
            assert await ask(client) == await ask(late) == 2
            file.write_text("new-one\n")
            assert await ask(client) == 2
            with pytest.raises(RpcFailed, match="does not know the token"):
                await ask(late)
            # A slip of whoever edits it locks nobody out.
            file.write_text("")
            assert await ask(client) == 2

    asyncio.run(run())


def test_a_tenants_token_changes_without_a_restart(security: Security, tmp_path: Path) -> None:
    with_token(tmp_path / "alice", "one")
    callers = Callers("data", security, [Tenant(Caller("alice", Role.viewer), tmp_path / "alice")])
    assert callers.find("Bearer one").name == "alice"
    (tmp_path / "alice").write_text("two\none\n")
    assert callers.find("Bearer one") == callers.find("Bearer two")
    (tmp_path / "alice").write_text("two\n")
    with pytest.raises(Unauthenticated):
        callers.find("Bearer one")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_text("{"), "is no file of tokens"),
        (lambda path: path.write_text('{"version": 2, "tokens": []}'), "tokens of version 2"),
        (lambda path: path.write_text(path.read_text().replace("viewer", "king")), "'king' is not a valid Role"),
        (lambda path: path.write_text(path.read_text().replace('"sha256": "', '"sha256": "00')), "is no SHA-256"),
        (lambda path: path.chmod(0o622), "others can change the tokens .*chmod 600"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_is_one_line(
    store: TokenStore, security: Security, change: Callable[[Path], object], says: str
) -> None:
    store.issue("vera", Role.viewer)
    change(_tokens(security))
    with pytest.raises(InputError, match=says):
        read_issued(_tokens(security))
    with pytest.raises(InputError, match=says):
        Callers("data", security)


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "bearer x", "Basic eDp5", "Bearer \u00ff", b"Bearer \xff"])
def test_what_is_no_token_is_not_known(security: Security, store: TokenStore, given: str | bytes) -> None:
    store.issue("vera", Role.viewer)
    with pytest.raises(Unauthenticated):
        Callers("data", security).find(given)


def test_several_tokens_of_one_file_are_read_newest_first(tmp_path: Path) -> None:
    ensure_token_file(tmp_path / "token")
    (tmp_path / "token").write_text("b\n\n a \n")
    assert read_tokens(tmp_path / "token") == ("b", "a")


def test_a_request_beyond_the_limit_is_refused_and_the_server_goes_on(security: Security) -> None:
    async def run() -> None:
        async with toy_server(ToyData(), security) as server:
            metadata = (("authorization", bearer(read_token(_file(security)))),)
            # Of a client that knows no limit.
            options = [("grpc.max_send_message_length", -1)]
            async with grpc.aio.insecure_channel(server.address, options) as channel:
                stub = data_pb2_grpc.DataServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Tokenize(data_pb2.TokenizeRequest(text="x" * (65 * 2**20)), metadata=metadata)
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert len((await stub.Tokenize(data_pb2.TokenizeRequest(text="ab"), metadata=metadata)).pieces) == 2

    asyncio.run(run())


def _file(security: Security) -> Path:
    assert security.token_file is not None
    return security.token_file


def _tokens(security: Security) -> Path:
    assert security.tokens is not None
    return security.tokens
