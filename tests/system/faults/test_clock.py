"""The wall clock of every process of a stack jumps: leases do not see it, and what was put off does not lie."""

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_stack import JobStack
from tests.machine import wait_until

from yuan_jobs.queries import get_job
from yuan_jobs.registry import Registry
from yuan_jobs.states import JobState

pytestmark = pytest.mark.slow

LEASE_S = 5
DAY_S = 86_400
SHIM = Path(__file__).parents[2] / "toys" / "clock_shim.c"


class WrongClock(JobStack):
    """A stack whose processes have a wall clock that the test sets."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        own = {"LD_PRELOAD": str(self.folder / "clock.so"), "TOY_CLOCK": str(self.folder / "clock")}
        return super().environment | own

    def set(self, seconds: int) -> None:
        """Sets the clock ahead, or behind."""
        with (self.folder / "clock").open("r+b") as file:
            file.write(struct.pack("l", seconds))


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WrongClock]:
    """A data server and a worker."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here, to build the clock that can be set")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clock").write_bytes(struct.pack("l", 0))
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(tmp_path / "clock.so"), str(SHIM)]
    subprocess.run(command, check=True, timeout=60)
    made = WrongClock(tmp_path, lease_seconds=LEASE_S)
    try:
        made.start_server("data")
        made.start_worker("data")
        yield made
    finally:
        made.end()


def test_a_clock_that_jumps_costs_no_running_job_its_lease_and_lets_no_retry_lie(stack: WrongClock) -> None:
    registry = Registry.open(stack.manifest.cluster.registry)
    try:
        with stack.client() as client:
            stack.hold("held")
            held = client.submit(stack.request("tokenizer.yaml", "name=held"))[0].id
            stack.await_work("held")
            for ahead in (DAY_S, -DAY_S, DAY_S):
                stack.set(ahead)
                time.sleep(1.5 * LEASE_S)
                record = get_job(registry, held)
                assert (record.state, record.attempt) == (JobState.RUNNING, 1), (ahead, record)
            stack.release("held")
            wait_until(lambda: get_job(registry, held).state == JobState.SUCCEEDED)

            (stack.control / "again.fail").write_text("not yet")
            retried = ["name=again", "scheduling.retries=1", "scheduling.retry_delay_seconds=3"]
            again = client.submit(stack.request("tokenizer.yaml", *retried))[0].id
            wait_until(lambda: get_job(registry, again).failures == 1)
            (stack.control / "again.fail").unlink()
            stack.set(0)
            wait_until(lambda: get_job(registry, again).state == JobState.SUCCEEDED)
    finally:
        registry.close()
