"""Certificates that are replaced hold from the next connection on, on both sides, without a restart."""

import asyncio
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import trustme
from tests.yuan_rpc.toys import ToyData, toy_server

from yuan_rpc import Connection, RpcFailed, Security, Tls
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc


def write(folder: Path, authority: trustme.CA) -> Tls:
    """Writes what both sides show and trust, all of one authority, over what is there."""
    identity = authority.issue_cert("localhost", "127.0.0.1")
    files = {
        "authority": authority.cert_pem.bytes(),
        "certificate": identity.cert_chain_pems[0].bytes(),
        "key": identity.private_key_pem.bytes(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Tls(
        certificate=folder / "certificate",
        key=folder / "key",
        authority=folder / "authority",
        client_authority=folder / "authority",
    )


async def ask(connection: Connection) -> int:
    with connection.errors():
        stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
        return len((await stub.Tokenize(data_pb2.TokenizeRequest(text="ab"), timeout=20)).pieces)


def test_server_and_client_change_their_certificates_and_the_authority_while_they_run(tmp_path: Path) -> None:
    tls = write(tmp_path, trustme.CA())

    async def run() -> None:
        async with (
            toy_server(ToyData(), Security(tls=tls)) as server,
            Connection("data", "127.0.0.1", server.port, Security(tls=tls)) as lasting,
        ):
            stub = lasting.aio_stub(data_pb2_grpc.DataServiceStub)
            assert await ask(lasting) == 2
            before = tmp_path / "before"
            before.mkdir()
            for file in ("authority", "certificate", "key"):
                (before / file).write_bytes((tmp_path / file).read_bytes())
            write(tmp_path, trustme.CA())
            # A stub that was made before goes over to the new ones, too.
            with lasting.errors():
                assert len((await stub.Tokenize(data_pb2.TokenizeRequest(text="abc"), timeout=20)).pieces) == 3
            old = Tls(before / "certificate", before / "key", before / "authority", before / "authority")
            for tls_of_old in (old, replace(old, authority=tls.authority)):
                async with Connection("data", "127.0.0.1", server.port, Security(tls=tls_of_old)) as late:
                    with pytest.raises(RpcFailed) as caught:
                        await ask(late)
                    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
            async with Connection("data", "127.0.0.1", server.port, Security(tls=tls)) as new:
                assert await ask(new) == 2

    asyncio.run(run())


def test_a_certificate_without_its_key_is_not_taken_until_the_key_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tls = replace(write(tmp_path, trustme.CA()), client_authority=None)
    (tmp_path / "trusted").write_bytes((tmp_path / "authority").read_bytes())
    client = Security(tls=Tls(authority=tmp_path / "trusted"))
    next_one = trustme.CA()
    identity = next_one.issue_cert("localhost", "127.0.0.1")

    async def run() -> None:
        async with toy_server(ToyData(), Security(tls=tls)) as server:

            async def ask_anew() -> int:
                async with Connection("data", "127.0.0.1", server.port, client) as connection:
                    return await ask(connection)

            (tmp_path / "certificate").write_bytes(identity.cert_chain_pems[0].bytes())
            assert await ask_anew() == 2
            assert "no certificate and key that belong together" in caplog.text
            assert "what it said before still holds" in caplog.text
            (tmp_path / "key").write_bytes(identity.private_key_pem.bytes())
            (tmp_path / "trusted").write_bytes(next_one.cert_pem.bytes())
            assert await ask_anew() == 2

    asyncio.run(run())
