"""Secrets that went through a stack stand in nothing that it has written, printed or answered."""

import json
import os
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from job_stack import JobStack, job_id_of
from tests.machine import free_ports
from toy_home import PATIENCE_S

from yuan_jobs.client import JobClient
from yuan_rpc.tokens import write_secret

MARK = secrets.token_hex(12)
"""In every secret of these tests, and nowhere else."""

_THEIR_OWN = ("token", "elsewhere.json", "registry.db")
"""Beginnings of the files that the secrets are given in; the registry knows whom a job's webhook tells."""


@pytest.fixture
def hook() -> Iterator[tuple[str, threading.Event]]:
    """A webhook whose URL is the secret, and what is set once it has been called."""
    called = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            called.set()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/{MARK}?key={MARK}", called
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStack]:
    """A data server and a worker of a stack whose token, webhook and broker's password hold the mark."""
    folder = tmp_path_factory.mktemp("secrets")
    before = Path.cwd()
    os.chdir(folder)
    made = JobStack(folder)
    try:
        write_secret(made.home / "token", f"own-{MARK}\n")
        tree = json.loads(made.cluster_file.read_text())
        tree["cluster"]["security"] = {"webhook_hosts": ["127.0.0.1"]}
        tree["cluster"]["services"]["data"]["metrics_port"] = free_ports(1)[0]
        made.cluster_file.write_text(json.dumps(tree))
        made.start_server("data")
        made.start_worker("data")
        yield made
    finally:
        made.end()
        os.chdir(before)


def produced(folder: Path) -> Iterator[Path]:
    """Returns the files below a folder that are not the secrets' own."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(_THEIR_OWN):
            yield path


@pytest.mark.slow  # twenty commands, each a process
def test_a_distinctive_secret_is_in_nothing_that_was_produced(
    stack: JobStack, hook: tuple[str, threading.Event]
) -> None:
    url, called = hook
    said: list[str] = []

    def yuan(*arguments: str, code: int | None = 0) -> str:
        ended = stack.yuan(*arguments)
        assert code is None or ended.returncode == code, ended.stderr
        said.extend((ended.stdout, ended.stderr))
        return ended.stdout

    issued = stack.yuan("token", "new", "mark", "--role", "operator").stdout.strip()
    job = job_id_of(yuan("submit", "tokenizer.yaml", f"scheduling.notify=['{url}']"))
    yuan("wait", job)
    assert called.wait(PATIENCE_S)
    for command in (
        ("jobs",),
        ("jobs", "--json"),
        ("show", job),
        ("show", job, "--json"),
        ("logs", job),
        ("artifacts", "--json"),
        ("show", "tokenizer/demo", "--json"),
        ("status",),
        ("audit", "--json"),
        ("token", "list", "--json"),
    ):
        yuan(*command, code=None)
    # Servers that are not there, with passwords in their URLs.
    (nowhere,) = free_ports(1)
    database = f"postgresql+psycopg://yuan:{MARK}@127.0.0.1:{nowhere}/yuan"
    for override in (f"cluster.registry={database}", f"cluster.broker=redis://:{MARK}@127.0.0.1:{nowhere}/0"):
        key, value = override.split("=", 1)
        tree = json.loads(stack.cluster_file.read_text())
        tree["cluster"][key.removeprefix("cluster.")] = value
        tree["cluster"]["home"] = str(stack.folder / "other")
        (stack.folder / "elsewhere.json").write_text(json.dumps(tree))
        for command in (("status",), ("doctor",), ("up",), ("artifacts",)):
            yuan("-f", "elsewhere.json", *command, code=None)
    port = json.loads(stack.cluster_file.read_text())["cluster"]["services"]["data"]["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
        said.append(page.read().decode())
    with JobClient(stack.manifest.cluster) as client:
        said.append(str(client.get(job)))
    for secret in (MARK, issued.rpartition("_")[2]):
        assert secret != ""
        places = [text for text in said if secret in text]
        places += [str(path) for path in produced(stack.folder) if secret.encode() in path.read_bytes()]
        assert places == []
