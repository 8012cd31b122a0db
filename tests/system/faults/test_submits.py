"""The same job is asked for again and again, by several at once, while the server that is asked is killed."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from job_stack import JobStack

from yuan_jobs.states import JobState
from yuan_rpc import RpcFailed

pytestmark = pytest.mark.slow

CALLERS = 8


def test_submits_with_one_key_are_one_job_also_at_once_and_across_a_server_s_death(job_stack: JobStack) -> None:
    request = job_stack.request("tokenizer.yaml", "name=keyed")
    job_stack.hold("keyed")

    def submit(_: int) -> str | None:
        with job_stack.client() as client:
            try:
                return client.submit(request, force=True, idempotency_key="k")[0].id
            except RpcFailed:
                return None  # whether it was written down its caller does not know

    with ThreadPoolExecutor(CALLERS) as pool:
        first = set(pool.map(submit, range(CALLERS)))
        assert len(first) == 1
        assert None not in first
        meanwhile = [pool.submit(submit, number) for number in range(CALLERS)]
        job_stack.end_server("data", signal.SIGKILL)
        job_stack.start_server("data")
        answered = {call.result(120) for call in meanwhile} | {submit(0)}
    assert answered - {None} == first
    with job_stack.client() as client:
        assert {job.id for job in client.jobs() if job.name == "keyed"} == first
        job_stack.release("keyed")
        job_id = str(first.pop())
        assert list(client.watch(job_id))[-1].job.attempt == 1
        assert [job.id for job in client.jobs(states=[JobState.SUCCEEDED]) if job.name == "keyed"] == [job_id]
    assert job_stack.calls == ["keyed 1"]
