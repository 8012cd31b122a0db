"""The gateway's certificates: replaced ones hold from the next connection on."""

import asyncio
import http.client
import socket
import ssl
from pathlib import Path

import pytest
import trustme
import uvicorn

from yuan_gateway.tls import renew
from yuan_rpc.security import Tls


async def says_yes(scope: object, receive: object, send: object) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"yes"})  # type: ignore[operator]


def write(folder: Path, authority: trustme.CA) -> Tls:
    folder.mkdir(exist_ok=True)
    identity = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "authority").write_bytes(authority.cert_pem.bytes())
    (folder / "certificate").write_bytes(identity.cert_chain_pems[0].bytes())
    (folder / "key").write_bytes(identity.private_key_pem.bytes())
    return Tls(folder / "certificate", folder / "key", folder / "authority", folder / "authority")


def ask(port: int, trusted: Tls, shown: Tls) -> bytes:
    context = ssl.create_default_context(cafile=str(trusted.authority))
    context.load_cert_chain(str(shown.certificate), str(shown.key))
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_certificate_and_authority_are_replaced_while_the_port_is_open(tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    old, new = write(tmp_path / "old", first), write(tmp_path / "new", second)
    used = write(tmp_path / "used", first)

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            config = uvicorn.Config(
                says_yes,
                lifespan="off",
                log_config=None,
                ssl_certfile=str(used.certificate),
                ssl_keyfile=str(used.key),
                ssl_ca_certs=str(used.client_authority),
                ssl_cert_reqs=ssl.CERT_REQUIRED,
            )
            config.load()
            assert config.ssl is not None
            renew(config.ssl, used)
            server = uvicorn.Server(config)
            serving = asyncio.ensure_future(server.serve(sockets=[listening]))
            try:
                assert await asyncio.to_thread(ask, port, old, old) == b"yes"
                write(tmp_path / "used", second)
                assert await asyncio.to_thread(ask, port, new, new) == b"yes"
                with pytest.raises(ssl.SSLError):  # the server shows what the old authority did not sign
                    await asyncio.to_thread(ask, port, old, new)
                with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):  # nor does it take it
                    await asyncio.to_thread(ask, port, new, old)
            finally:
                server.should_exit = True
                await serving

    asyncio.run(run())
