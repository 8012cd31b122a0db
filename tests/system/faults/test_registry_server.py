"""The registry's server is killed under a stack that works, and stays away for half a minute."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import postgresql
import pytest
from job_stack import JobStack, job_id_of
from tests.machine import wait_until

from yuan_jobs.queries import attempts, get_job
from yuan_jobs.registry import Registry
from yuan_jobs.states import JobState
from yuan_rpc import RpcFailed, StatusCode
from yuan_rpc.jobs.v1 import jobs_pb2

pytestmark = pytest.mark.slow

AWAY_S = 30
LEASE_S = 5


@pytest.fixture
def server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server of this test's own."""
    with postgresql.running() as running:
        yield running


@pytest.fixture
def stack(server: postgresql.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobStack]:
    """Servers of data and trainer and a data worker over it."""
    monkeypatch.chdir(tmp_path)
    made = JobStack(tmp_path, server.url(server.new_database()), LEASE_S)
    try:
        made.start_server("data")
        made.start_server("trainer")
        made.start_worker("data")
        yield made
    finally:
        made.end()


def test_a_registry_that_is_killed_and_away_for_half_a_minute_loses_no_job(
    stack: JobStack, server: postgresql.Server
) -> None:
    stack.hold("first")
    running = job_id_of(stack.yuan("submit", "tokenizer.yaml").stdout)
    waiting = job_id_of(stack.yuan("submit", "tokenizer.yaml", "name=later").stdout)
    stack.await_work("first")
    notices: list[str] = []
    seen: list[jobs_pb2.WatchResponse] = []

    def watch() -> None:
        with stack.client(notice=notices.append) as client:
            for reply in client.watch(waiting):
                seen.append(reply)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wait_until(lambda: seen != [])

    server.kill()
    down = time.monotonic()
    stack.release("first")  # so that its work is done, and cannot be told
    refused = stack.yuan("submit", "tokenizer.yaml", "name=refused")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "registry" in refused.stderr
    with stack.client() as client, pytest.raises(RpcFailed) as caught:
        client.get(running)
    assert (caught.value.code, caught.value.reason) == (StatusCode.UNAVAILABLE, "REGISTRY_AWAY")
    time.sleep(max(0.0, AWAY_S - (time.monotonic() - down)))
    assert all(process.poll() is None for process in stack.servers.values())
    server.start()

    registry = Registry.open(stack.manifest.cluster.registry)
    try:
        for job_id in (running, waiting):
            wait_until(lambda job=job_id: get_job(registry, job).state.ended)
            record = get_job(registry, job_id)
            assert (record.state, record.attempt <= 2) == (JobState.SUCCEEDED, True), (record.reason, record)
        done = [a for a in attempts(registry, running) if a.outcome == JobState.SUCCEEDED]
        assert len(done) == 1
        assert [artifact.version for artifact in registry.artifacts()] == [1, 2]
    finally:
        registry.close()
    watcher.join(60)
    assert seen[-1].job.state == jobs_pb2.JOB_STATE_SUCCEEDED
    assert notices == ["the connection is lost; trying again", "connected again"]
