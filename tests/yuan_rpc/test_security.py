"""Who may call: token files, tokens, TLS and mutual TLS, and what is refused beyond loopback."""

import asyncio
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tests.yuan_rpc.toys import ToyData, mounts, toy_server

from yuan_events import InputError
from yuan_manifest import Cluster
from yuan_manifest.schema import SecuritySection, Services, ServiceSection, TlsSection
from yuan_rpc import (
    Connection,
    RpcFailed,
    RpcRefused,
    Security,
    Tls,
    connect,
    ensure_token_file,
    is_loopback,
    read_token,
    server_of,
    service_of,
)
from yuan_rpc.data.v1 import data_pb2, data_pb2_grpc

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what the tests are about
REQUEST = data_pb2.TokenizeRequest(text="ab")


def call(server_security: Security, client_security: Security, **options: object) -> list[str]:
    """Returns what Tokenize says through both securities."""

    async def run() -> list[str]:
        async with (
            toy_server(ToyData(), server_security, **options) as server,
            Connection("data", "127.0.0.1", server.port, client_security) as connection,
        ):
            with connection.errors():
                return list((await connection.aio_stub(data_pb2_grpc.DataServiceStub).Tokenize(REQUEST)).pieces)

    return asyncio.run(run())


def test_a_new_token_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "token"
    ensure_token_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(read_token(path)) >= 40
    assert [entry.name for entry in path.parent.iterdir()] == ["token"]


def test_a_token_file_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    ensure_token_file(path)
    before = read_token(path)
    ensure_token_file(path)
    assert read_token(path) == before


def test_many_that_make_the_token_file_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "token"

    def make(_: int) -> str:
        ensure_token_file(path)
        return read_token(path)

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(make, range(64)))) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_file_that_others_can_read_is_refused_with_the_mend(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    ensure_token_file(path)
    path.chmod(mode)
    with pytest.raises(InputError, match=f"others can read .*{mode:04o}.*chmod 600 {path}"):
        read_token(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", "字".encode()])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no token file"):
        read_token(path)


def test_a_missing_token_file_is_named_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token file; `yuan up` makes one"):
        Connection("data", "127.0.0.1", 1, Security(token_file=tmp_path / "token"))


def test_a_token_file_where_none_can_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot make the token file"):
        ensure_token_file(tmp_path / "file" / "token")


def test_the_right_token_is_let_in(token: Security) -> None:
    assert call(token, token) == ["a", "b"]


def test_a_call_without_a_token_is_told_which_key_to_set(token: Security) -> None:
    with pytest.raises(RpcRefused, match=r"none was sent; set cluster\.security\.token_file") as caught:
        call(token, Security())
    assert caught.value.code == grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.exit_code == 2


def test_a_wrong_token_is_told_which_file_it_came_from(token: Security, tmp_path: Path) -> None:
    other = Security(token_file=tmp_path / "other")
    ensure_token_file(tmp_path / "other")
    with pytest.raises(RpcRefused, match=f"does not know the token of {tmp_path / 'other'}"):
        call(token, other)


def test_health_needs_no_token_and_reflection_does(token: Security) -> None:
    async def run() -> None:
        async with toy_server(ToyData(), token) as server:
            assert await asyncio.to_thread(Connection("data", "127.0.0.1", server.port).is_serving)
            channel = grpc.insecure_channel(server.address)
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                await asyncio.to_thread(ProtoReflectionDescriptorDatabase(channel).get_services)
            channel.close()

    asyncio.run(run())


def test_a_server_beyond_loopback_needs_a_token() -> None:
    with pytest.raises(InputError, match=r"without a token: set cluster\.security\.token_file, or .*data\.bind"):
        call(Security(), Security(), bind=EVERYWHERE)


def test_a_server_beyond_loopback_needs_tls_or_a_word_that_clear_text_is_meant(token: Security) -> None:
    with pytest.raises(InputError, match=r"in clear text: set cluster\.security\.tls, or cluster\.security\.plaintext"):
        call(token, token, bind=EVERYWHERE)
    assert call(replace(token, plaintext=True), token, bind=EVERYWHERE) == ["a", "b"]


def test_a_client_sends_no_token_to_another_machine_in_clear_text(token: Security) -> None:
    with pytest.raises(InputError, match=r"192\.0\.2\.1 \(data\) in clear text"):
        Connection("data", "192.0.2.1", 7101, token)
    Connection("data", "192.0.2.1", 7101, replace(token, plaintext=True))


def test_tls_carries_calls(token: Security, tls: Tls) -> None:
    server = replace(token, tls=Tls(certificate=tls.certificate, key=tls.key))
    client = replace(token, tls=Tls(authority=tls.authority))
    assert call(server, client, bind=EVERYWHERE) == ["a", "b"]


@pytest.mark.parametrize("authority", ["clients.pem", None])
def test_a_server_of_an_unknown_authority_is_not_trusted(token: Security, tls: Tls, authority: str | None) -> None:
    assert tls.certificate is not None
    server = replace(token, tls=Tls(certificate=tls.certificate, key=tls.key))
    client = replace(token, tls=Tls(authority=tls.certificate.with_name(authority) if authority else None))
    message = r"no TLS with 127.* \(data\): its certificate is not .*security\.tls\.authority"
    with pytest.raises(RpcFailed, match=message) as caught:
        call(server, client)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("tls_at_server", [True, False])
def test_clear_text_and_tls_do_not_meet_and_say_so(token: Security, tls: Tls, tls_at_server: bool) -> None:
    server = replace(token, tls=Tls(certificate=tls.certificate, key=tls.key)) if tls_at_server else token
    client = token if tls_at_server else replace(token, tls=Tls(authority=tls.authority))
    with pytest.raises(RpcFailed, match="it speaks TLS" if tls_at_server else "it speaks clear text") as caught:
        call(server, client)
    assert caught.value.exit_code == 2


def test_mutual_tls_lets_in_only_those_with_a_certificate(token: Security, tls: Tls) -> None:
    everything = replace(token, tls=tls)
    assert call(everything, everything) == ["a", "b"]
    without = replace(token, tls=Tls(authority=tls.authority))
    with pytest.raises(RpcFailed, match="asks for a client certificate") as caught:
        call(everything, without)
    assert caught.value.exit_code == 2
    wrong = replace(tls, client_certificate=tls.certificate, client_key=tls.key)
    with pytest.raises(RpcFailed):
        call(everything, replace(token, tls=wrong))


def test_files_of_tls_that_are_wrong_are_named_before_anything_listens(
    token: Security, tls: Tls, tmp_path: Path
) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    missing = tmp_path / "missing.pem"
    cases = [
        (replace(tls, certificate=garbage), r"garbage\.pem and .* belong together.*tls\.certificate"),
        (replace(tls, key=tls.client_key), r"belong together.*tls\.certificate"),
        (replace(tls, certificate=missing), r"missing\.pem: No such file.*tls\.certificate"),
        (replace(tls, key=None), r"cluster\.security\.tls\.key is missing"),
        (replace(tls, client_authority=garbage), r"holds no certificates.*tls\.authority"),
    ]
    for wrong, message in cases:
        with pytest.raises(InputError, match=message):
            call(replace(token, tls=wrong), token)
    with pytest.raises(InputError, match=r"garbage\.pem and .*tls\.client_certificate"):
        Connection("data", "127.0.0.1", 1, replace(token, tls=replace(tls, client_certificate=garbage)))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_is_what_only_this_machine_reaches(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "no-such-host.invalid"])
def test_other_addresses_and_unknown_names_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_server_on_the_loopback_of_ipv6_is_called_like_any_other(token: Security) -> None:
    async def run() -> None:
        async with toy_server(ToyData(), token, bind="::1") as server:
            assert server.address == f"[::1]:{server.port}"
            with Connection("data", "::1", server.port, token) as connection:
                await asyncio.to_thread(connection.check_version)

    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    asyncio.run(run())


def manifest(token: Security, tls: TlsSection | None = None) -> Cluster:
    """A cluster whose data service is on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        data = ServiceSection(port=probe.getsockname()[1], metrics_port=0)
    security = SecuritySection(token_file=str(token.token_file), tls=tls)
    return Cluster(services=Services(data=data, converter=None, evaluator=None), security=security)


@pytest.mark.parametrize("mutual", [None, False, True])
def test_a_cluster_manifest_means_both_ends_of_a_connection(token: Security, tls: Tls, mutual: bool | None) -> None:
    section = TlsSection(str(tls.certificate), str(tls.key), str(tls.authority))
    cluster = manifest(token, None if mutual is None else replace(section, require_client_certificate=mutual))

    async def run() -> None:
        async with server_of("data", cluster, mounts(ToyData())) as server, connect("data", cluster) as connection:
            assert server.port == service_of(cluster, "data").port
            stub = connection.aio_stub(data_pb2_grpc.DataServiceStub)
            assert list((await stub.Tokenize(REQUEST)).pieces) == ["a", "b"]

    asyncio.run(run())


@pytest.mark.parametrize("name", ["converter", "evaluator"])
def test_a_service_that_a_cluster_does_not_have_is_told_with_those_that_it_has(token: Security, name: str) -> None:
    with pytest.raises(InputError, match=f"no {name} service; it has: data, trainer, inference, gateway"):
        connect(name, manifest(token))


@pytest.mark.parametrize("first", ["yuan_rpc", "yuan_jobs.client", "yuan_cli.artifacts", "yuan_cli.inference"])
def test_a_failed_handshake_prints_nothing_but_the_one_line(token: Security, tls: Tls, first: str) -> None:
    code = (
        f"import sys, {first}; from pathlib import Path; from yuan_rpc import *; "
        "security = Security(tls=Tls(authority=Path(sys.argv[2]))); "
        "print(failure(Connection('data', '127.0.0.1', int(sys.argv[1]), security)))"
    )
    helper = "def failure(c):\n  try: c.is_serving()\n  except Exception as error: return error\n"

    async def run() -> tuple[bytes, bytes]:
        async with toy_server(ToyData(), replace(token, tls=Tls(certificate=tls.certificate, key=tls.key))) as server:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", helper + code, str(server.port), str(tls.client_authority)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            return await process.communicate()

    out, log = asyncio.run(run())
    assert out.startswith(b"no TLS with 127.0.0.1:")
    assert log == b""
