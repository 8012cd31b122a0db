"""Token, certificates and a toy server's process."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from yuan_rpc import Security, Tls, ensure_token_file


@pytest.fixture
def token(tmp_path: Path) -> Security:
    """A token file without TLS."""
    path = tmp_path / "home" / "token"
    ensure_token_file(path)
    return Security(token_file=path)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A server certificate for this machine, its authority, and a client certificate of another authority."""
    folder = tmp_path_factory.mktemp("tls")
    authority, clients = trustme.CA(), trustme.CA()
    server, client = authority.issue_cert("localhost", "127.0.0.1"), clients.issue_cert("client")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    clients.cert_pem.write_to_path(folder / "clients.pem")
    for name, certificate in (("server", server), ("client", client)):
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(folder / f"{name}.pem", append=True)
    return Tls(
        certificate=folder / "server.pem",
        key=folder / "server.key",
        authority=folder / "authority.pem",
        client_authority=folder / "clients.pem",
        client_certificate=folder / "client.pem",
        client_key=folder / "client.key",
    )


@pytest.fixture
def start_process(repository: Path) -> Iterator[Callable[[], tuple["subprocess.Popen[str]", int]]]:
    """Starts a toy server as a process of its own and returns it with its port."""
    running: list[subprocess.Popen[str]] = []

    def start() -> tuple["subprocess.Popen[str]", int]:
        command = [sys.executable, "-m", "tests.yuan_rpc.toys", "0"]
        process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        word, port = process.stdout.readline().split()
        assert word == "ready"
        return process, int(port)

    yield start
    for process in running:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
