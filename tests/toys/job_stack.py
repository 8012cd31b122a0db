"""A stack of toy services that do jobs: a real broker, real servers on real ports, real workers, one by one."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.machine import free_ports, wait_until
from toy_home import PATIENCE_S, Toys

from yuan_jobs.client import JobClient
from yuan_jobs.requests import Request, request_of
from yuan_manifest import ClusterManifest, load_cluster, load_job
from yuan_rpc import connect, ensure_token_file
from yuan_stack.broker import EmbeddedBroker
from yuan_stack.folder import StackFolder
from yuan_stack.planning import steps_of

SERVICES = ("data", "trainer", "converter", "inference")


class JobStack(Toys):
    """Toys with a cluster manifest, a broker and the processes that a test starts."""

    def __init__(self, folder: Path, registry: str | None = None, lease_seconds: int = 8) -> None:
        """Args: registry: its URL; None: SQLite in the home. lease_seconds: of which a busy machine takes some."""
        super().__init__(folder)
        self._cluster = {"lease_seconds": lease_seconds} | ({} if registry is None else {"registry": registry})
        self.home.mkdir()
        self.ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self.cluster_file = folder / "cluster.yaml"
        self.write_cluster()
        ensure_token_file(self.home / "token")
        (self.home / "stack").mkdir()
        self.broker = EmbeddedBroker(StackFolder(self.home))
        self.broker.start()
        wait_until(self.broker.answers)
        self.servers: dict[str, subprocess.Popen[str]] = {}

    def write_cluster(self, topology: dict[str, Any] | None = None, name: str = "cluster.yaml") -> Path:
        """Writes a cluster manifest of this stack."""
        services: dict[str, Any] = {
            name: {"port": port, "workers": int(name != "inference")} for name, port in self.ports.items()
        }
        services["evaluator"] = services["gateway"] = None
        tree = {"home": str(self.home), "services": services, **self._cluster}
        path = self.folder / name
        path.write_text(json.dumps({"version": 1, "cluster": tree, "topology": topology or {}}))
        return path

    @property
    def environment(self) -> dict[str, str]:
        """As of toys, with this cluster as the default."""
        return super().environment | {"YUAN_CLUSTER": str(self.cluster_file)}

    @property
    def manifest(self) -> ClusterManifest:
        """The cluster manifest."""
        return load_cluster(self.cluster_file)

    def start_server(self, service: str) -> None:
        """Starts a server and waits until it serves."""
        log = (self.folder / f"{service}-server.log").open("a")
        process = self.start(f"yuan_{service}", "server", "-f", str(self.cluster_file), stdout=log, stderr=log)
        self.servers[service] = process
        with connect(service, self.manifest.cluster) as connection:
            assert connection.wait_until_serving(PATIENCE_S, give_up=lambda: process.poll() is not None), log.name

    def end_server(self, service: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends a server."""
        process = self.servers.pop(service)
        process.send_signal(number)
        process.wait(PATIENCE_S)

    def start_worker(self, service: str) -> "subprocess.Popen[str]":
        """Starts a worker."""
        log = (self.folder / f"{service}-worker.log").open("a")
        return self.start(f"yuan_{service}", "worker", "-f", str(self.cluster_file), stdout=log, stderr=log)

    def client(self, **options: Any) -> JobClient:
        """Returns a client of it."""
        return JobClient(self.manifest.cluster, **options)

    def request(self, manifest: str, *overrides: str) -> Request:
        """Returns what submitting a manifest asks for."""
        path = self.folder / manifest
        job = load_job(path, overrides)
        return request_of(job, steps_of(job, path, overrides, self.manifest), self.manifest)

    def write(self, manifest: str, text: str) -> None:
        """Writes a manifest."""
        (self.folder / manifest).write_text(f"version: 1\n{text}")

    def end(self) -> None:
        """Ends all of it."""
        super().end()
        self.broker.end()


@pytest.fixture(scope="module")
def job_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    """Data and trainer servers, and a data worker, for all tests of a file; each test has jobs of its own."""
    folder = tmp_path_factory.mktemp("stack")
    before = Path.cwd()
    os.chdir(folder)
    made = JobStack(folder)
    try:
        made.start_server("data")
        made.start_server("trainer")
        made.start_worker("data")
        yield made
    finally:
        made.end()
        os.chdir(before)


def job_id_of(text: str) -> str:
    """Returns the id of a job that a command printed."""
    found = re.search(r"\S+-1[0-9a-z]{13}\b", text)
    assert found, text
    return found.group()
