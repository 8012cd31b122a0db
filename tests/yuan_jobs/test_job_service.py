"""JobService as its clients see it: real servers, a real broker, a real worker, jobs of toys."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from job_stack import JobStack
from tests.machine import wait_until

from yuan_jobs.client import JobClient
from yuan_jobs.messages import plain_of, state_of, struct_of
from yuan_jobs.requests import request_to_plain
from yuan_jobs.states import JobState
from yuan_rpc import RpcFailed, RpcRefused, connect
from yuan_rpc.jobs.v1 import jobs_pb2, jobs_pb2_grpc


@pytest.fixture
def client(job_stack: JobStack) -> Iterator[JobClient]:
    with job_stack.client() as made:
        yield made


def tokenizer(stack: JobStack, name: str, *overrides: str) -> Any:
    """Returns the request of a tokenizer job of that name, which makes a tokenizer of that name."""
    return stack.request("tokenizer.yaml", f"name={name}", f"outputs.tokenizer={name}", *overrides)


def pretrain(stack: JobStack, name: str, topology: str = "{}") -> Any:
    """Returns the request of a training job, for which no worker is there."""
    client = stack.client()
    if not any(artifact.kind == "dataset" for artifact in client.artifacts()):
        stack.write(
            "pair.yaml",
            "kind: pipeline\nname: pair\nsteps: {train: {manifest: tokenizer.yaml}, "
            "cut: {manifest: tokenize.yaml, needs: [train]}}\n",
        )
        ended(client, client.submit(stack.request("pair.yaml"))[0].id)
    stack.write(
        f"{name}.yaml",
        f"kind: pretrain\nname: {name}\ntopology: {topology}\n"
        "model: {vocab_size: 64, hidden_size: 8, num_hidden_layers: 4, num_attention_heads: 2, intermediate_size: 8, "
        "max_position_embeddings: 16}\n"
        "inputs: {tokenizer: demo, datasets: [{name: demo, weight: 1.0}]}\ndata: {sequence_length: 8}\n"
        "train: {steps: 1, global_batch_size: 4}\noptimizer: {lr: 0.1}\n"
        f"outputs: {{model: {name}}}\n",
    )
    return stack.request(f"{name}.yaml")


def ended(client: JobClient, job_id: str) -> jobs_pb2.Job:
    """Waits for a job's end."""
    *_, last = client.watch(job_id)
    assert last.job.id == job_id
    return last.job


def events(replies: list[jobs_pb2.WatchResponse]) -> list[dict[str, Any]]:
    """Returns the events among the replies of a watch."""
    return [json.loads(reply.event_json) for reply in replies if not reply.HasField("job")]


def await_state(client: JobClient, job_id: str, *states: JobState) -> jobs_pb2.Job:
    """Waits until a job stands so."""
    wait_until(lambda: state_of(client.get(job_id).job.state) in states)
    return client.get(job_id).job


# --- submitting and watching ---------------------------------------------------------------------------------------


def test_a_watcher_sees_all_events_and_then_the_end_however_late_it_comes(
    job_stack: JobStack, client: JobClient
) -> None:
    job, reused = client.submit(tokenizer(job_stack, "seen"))
    assert (job.name, job.kind, reused) == ("seen", "tokenizer", False)
    at_once, late = list(client.watch(job.id)), list(client.watch(job.id))
    assert [event["type"] for event in events(at_once)] == ["metrics", "message"]
    assert events(late) == events(at_once)
    assert [reply.job.state for reply in late if reply.HasField("job")] == [jobs_pb2.JOB_STATE_SUCCEEDED]
    assert late[-1].job.artifact == "tokenizer/seen@1"
    assert plain_of(late[-1].job.result)["turns"] == 0


def test_a_watch_of_a_pipeline_names_its_steps_and_ends_with_the_pipeline(
    job_stack: JobStack, client: JobClient
) -> None:
    job, _ = client.submit(job_stack.request("pipeline.yaml"))
    replies = list(client.watch(job.id))
    ends = [(r.step, state_of(r.job.state).value) for r in replies if r.HasField("job") and state_of(r.job.state).ended]
    assert ends == [("train", "SUCCEEDED"), ("cut", "SUCCEEDED"), ("", "SUCCEEDED")]
    assert {r.step for r in replies if not r.HasField("job")} <= {"train", "cut"}
    children = client.get(job.id).children
    assert [(child.step, child.parent_id, list(child.needs)) for child in children] == [
        ("train", job.id, []),
        ("cut", job.id, [children[0].id]),
    ]


def test_the_same_job_twice_is_one_and_force_makes_another(job_stack: JobStack, client: JobClient) -> None:
    job_stack.hold("twice")
    first, _ = client.submit(tokenizer(job_stack, "twice"))
    again, reused = client.submit(tokenizer(job_stack, "twice"))
    assert (again.id, reused) == (first.id, True)
    forced, reused = client.submit(tokenizer(job_stack, "twice"), force=True)
    assert (forced.id == first.id, reused) == (False, False)
    job_stack.release("twice")
    assert [state_of(ended(client, job_id).state) for job_id in (first.id, forced.id)] == [JobState.SUCCEEDED] * 2


def test_an_idempotency_key_stands_for_one_job(job_stack: JobStack, client: JobClient) -> None:
    first, _ = client.submit(tokenizer(job_stack, "keyed"), force=True, idempotency_key="k")
    again, reused = client.submit(tokenizer(job_stack, "keyed"), force=True, idempotency_key="k")
    assert (again.id, reused) == (first.id, True)
    with pytest.raises(RpcRefused, match="idempotency key k: used before") as caught:
        client.submit(tokenizer(job_stack, "other"), idempotency_key="k")
    assert caught.value.resource == ("idempotency_key", "k")
    assert caught.value.code == grpc.StatusCode.ALREADY_EXISTS
    with pytest.raises(RpcRefused, match="idempotency_key: is longer than 200 characters") as caught:
        client.submit(tokenizer(job_stack, "other"), idempotency_key="k" * 201)
    assert caught.value.violations == {"idempotency_key": "is longer than 200 characters"}


def test_what_is_submitted_is_checked_again(job_stack: JobStack) -> None:
    tree, topology = request_to_plain(tokenizer(job_stack, "checked"))
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({**tree, "tokeniser": {}}, topology, "tokeniser: unknown key"),
        ({**tree, "tokenizer": {"vocab_size": "many"}}, topology, "tokenizer.vocab_size: expected a whole number"),
        ({**tree, "kind": "tokenise"}, topology, "did you mean tokenize"),
        (tree, {"nodes": {"devices": 0}}, "topology.nodes.devices"),
        ({"version": 1, "kind": "pipeline", "name": "none", "steps": {}}, {}, "steps"),
        ({"kind": "pipeline", "name": "p /\n", "steps": {"a": {"job": tree}}}, {}, "name: expected a name"),
        ({"kind": "pipeline", "name": "p", "steps": {"a/../ \n": {"job": tree}}}, {}, "expected a name of 1 to 63"),
    ]
    with connect("data", job_stack.manifest.cluster) as connection:
        stub = connection.stub(jobs_pb2_grpc.JobServiceStub)
        for job, where, line in cases:
            request = jobs_pb2.SubmitRequest(job=struct_of(job), topology=struct_of(where))
            with pytest.raises(RpcRefused, match=line) as caught, connection.errors():
                stub.Submit(request)
            assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
            assert "\n" not in str(caught.value)


def test_a_url_that_the_cluster_does_not_list_is_fetched_by_nobody(job_stack: JobStack, client: JobClient) -> None:
    asked = tokenizer(job_stack, "fetched", "inputs.text=[http://169.254.169.254/latest]")
    with pytest.raises(
        RpcRefused, match=r"inputs.text\[0\]: http://169.254.169.254 is not among cluster.security.urls"
    ):
        client.submit(asked)
    with pytest.raises(RpcRefused, match=r"is not among cluster.security.urls"):
        client.put_schedule(tokenizer(job_stack, "fetched", "inputs.text=[s3://b/c]", "scheduling.cron=0 9 * * *"))


def test_an_input_that_is_not_there_is_told_at_once(job_stack: JobStack, client: JobClient) -> None:
    with pytest.raises(RpcRefused, match="artifact tokenizer/nowhere does not exist") as caught:
        client.submit(job_stack.request("tokenize.yaml", "inputs.tokenizer=nowhere"))
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert caught.value.resource is not None


def test_a_server_takes_jobs_of_its_own_kinds_and_names_the_one_that_takes_others(job_stack: JobStack) -> None:
    job, topology = request_to_plain(tokenizer(job_stack, "elsewhere"))
    request = jobs_pb2.SubmitRequest(job=struct_of(job), topology=struct_of(topology))
    with connect("trainer", job_stack.manifest.cluster) as connection:
        where = rf"the data service at 127\.0\.0\.1:{job_stack.ports['data']}, not by trainer"
        with pytest.raises(RpcRefused, match=where) as caught, connection.errors():
            connection.stub(jobs_pb2_grpc.JobServiceStub).Submit(request)
    assert caught.value.violations.keys() == {"job.kind"}


def test_a_kind_that_no_worker_does_is_refused_and_the_foreground_named(job_stack: JobStack, client: JobClient) -> None:
    with pytest.raises(RpcRefused, match=r"kind generate is not done on the queue of this stack.*yuan run"):
        client.submit(job_stack.request("generate.yaml"))
    job_stack.write("both.yaml", "kind: pipeline\nname: both\nsteps: {talk: {manifest: generate.yaml}}\n")
    with pytest.raises(RpcRefused, match="both: step talk: kind generate"):
        client.submit(job_stack.request("both.yaml"))


# --- finding and listing --------------------------------------------------------------------------------------------


def test_a_job_is_found_by_a_beginning_that_no_other_has(job_stack: JobStack, client: JobClient) -> None:
    job, _ = client.submit(tokenizer(job_stack, "findable"))
    assert client.get("finda").job.id == job.id
    assert client.get(job.id).job.id == job.id
    other, _ = client.submit(tokenizer(job_stack, "findable", "tokenizer.seed=2"))
    with pytest.raises(RpcRefused, match="job findable: several begin so: findable-") as caught:
        client.get("findable")
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(RpcRefused, match=rf"did you mean ({job.id}|{other.id})") as caught:
        client.get("findabel-1m")
    assert (caught.value.code, caught.value.resource) == (grpc.StatusCode.NOT_FOUND, ("job", "findabel-1m"))
    ended(client, other.id)


def test_jobs_are_listed_newest_first_by_state_and_kind_page_by_page(job_stack: JobStack, client: JobClient) -> None:
    ids = [client.submit(tokenizer(job_stack, f"listed{number}"))[0].id for number in range(3)]
    for job_id in ids:
        ended(client, job_id)
    listed = [job.id for job in client.jobs(states=[JobState.SUCCEEDED], kind="tokenizer")]
    assert [job_id for job_id in listed if job_id in ids] == ids[::-1]
    assert list(client.jobs(kind="convert")) == []
    with connect("data", job_stack.manifest.cluster) as connection:
        stub = connection.stub(jobs_pb2_grpc.JobServiceStub)
        first = stub.List(jobs_pb2.ListRequest(page_size=2))
        second = stub.List(jobs_pb2.ListRequest(page_size=2, page_token=first.next_page_token))
        assert [job.id for job in (*first.jobs, *second.jobs)][:3] == ids[::-1]
        for wrong in (
            jobs_pb2.ListRequest(page_size=-1),
            jobs_pb2.ListRequest(page_token="nonsense"),
            jobs_pb2.ListRequest(kind="tokenise"),
            jobs_pb2.ListRequest(states=[0]),
        ):
            with pytest.raises(RpcRefused) as caught, connection.errors():
                stub.List(wrong)
            assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
            assert list(caught.value.violations) == [field.name for field, _ in wrong.ListFields()]


def test_artifacts_are_listed_and_shown_with_their_lineage(job_stack: JobStack, client: JobClient) -> None:
    job, _ = client.submit(job_stack.request("pipeline.yaml"))
    ended(client, job.id)
    assert {(artifact.kind, artifact.name) for artifact in client.artifacts("dataset")} == {("dataset", "demo")}
    made = client.artifact("tokenizer/demo")
    assert [user.partition("@")[0] for user in made.used_by][:1] == ["dataset/demo"]
    assert plain_of(made.metadata)["job"]["id"] == made.job_id
    with pytest.raises(RpcRefused, match="tokenizer/nowhere does not exist"):
        client.artifact("tokenizer/nowhere")
    with pytest.raises(RpcRefused, match="not a number from 1"):
        client.artifact("tokenizer/demo@" + "9" * 5000)
    with connect("data", job_stack.manifest.cluster) as connection:
        stub = connection.stub(jobs_pb2_grpc.JobServiceStub)
        with pytest.raises(RpcRefused, match="is none of this list's") as caught, connection.errors():
            stub.ListArtifacts(jobs_pb2.ListArtifactsRequest(page_token="1" * 5000))
    assert caught.value.violations == {"page_token": "is not ours"}


def test_status_knows_the_workers_and_the_reconciler(job_stack: JobStack, client: JobClient) -> None:
    wait_until(lambda: client.status().reconciler_active)
    status = client.status()
    assert [(worker.service, worker.version) for worker in status.workers] == [("data", status.version)]
    assert "SUCCEEDED" in status.jobs_by_state


# --- steering -------------------------------------------------------------------------------------------------------


def test_a_job_without_a_worker_is_cancelled_at_once_and_can_be_resumed(job_stack: JobStack, client: JobClient) -> None:
    job, _ = client.submit(pretrain(job_stack, "lonely"))
    assert state_of(client.cancel(job.id).state) == JobState.CANCELLED
    assert state_of(ended(client, job.id).state) == JobState.CANCELLED
    assert state_of(client.resume(job.id).state) == JobState.QUEUED
    with pytest.raises(RpcRefused, match="QUEUED") as caught:
        client.resume(job.id)
    assert caught.value.code == grpc.StatusCode.FAILED_PRECONDITION
    client.cancel(job.id)


def test_a_running_job_is_cancelled_at_its_next_safe_point(job_stack: JobStack, client: JobClient) -> None:
    job_stack.hold("stopped")
    job, _ = client.submit(tokenizer(job_stack, "stopped"))
    job_stack.await_work("stopped")
    asked = client.cancel(job.id)
    assert (state_of(asked.state), asked.desired) == (JobState.RUNNING, jobs_pb2.DESIRED_STATE_CANCEL)
    assert state_of(ended(client, job.id).state) == JobState.CANCELLED
    job_stack.release("stopped")
    client.resume(job.id)
    assert plain_of(ended(client, job.id).result)["turns_before"] > 0


def test_a_job_goes_on_under_the_clusters_topology_of_now_its_own_and_what_is_added(
    job_stack: JobStack, client: JobClient
) -> None:
    job, _ = client.submit(pretrain(job_stack, "moved", "{parallel: {pipeline: 2, stages: [1, 3]}}"))
    cluster = {"nodes": {"count": 1, "devices": 4}, "parallel": {"pipeline": 1, "stages": "auto"}}

    def resumed(*arguments: Any) -> dict[str, Any]:
        client.cancel(job.id)
        return plain_of(client.resume(job.id, *arguments).topology)

    moved = resumed(cluster)
    assert (moved["nodes"]["devices"], moved["parallel"]["stages"]) == (4, [1, 3])
    moved = resumed(cluster, {"parallel": {"pipeline": 4, "stages": "auto"}})
    assert (moved["parallel"]["pipeline"], moved["parallel"]["stages"]) == (4, "auto")
    assert resumed() == moved
    assert resumed(None, {"nodes": {"devices": 8}})["parallel"]["pipeline"] == 4
    client.cancel(job.id)
    with pytest.raises(RpcRefused, match=r"sum to 5, but model\.num_hidden_layers is 4"):
        client.resume(job.id, None, {"parallel": {"pipeline": 2, "stages": [2, 3]}})
    assert state_of(client.get(job.id).job.state) == JobState.CANCELLED


def test_a_late_watcher_of_a_job_with_two_attempts_sees_both(job_stack: JobStack, client: JobClient) -> None:
    (job_stack.control / "again.fail").write_text("not yet")
    job, _ = client.submit(tokenizer(job_stack, "again"))
    failed = ended(client, job.id)
    assert state_of(failed.state) == JobState.FAILED
    assert "not yet" in failed.reason
    (job_stack.control / "again.fail").unlink()
    client.resume(job.id)
    assert ended(client, job.id).attempt == 2
    seen = events(list(client.watch(job.id)))
    assert [event["type"] for event in seen] == ["metrics", "message", "metrics", "message"]
    assert "continues run" in seen[1]["text"]


# --- logs, and streams that break -----------------------------------------------------------------------------------


def test_logs_are_what_the_processes_printed_and_can_be_followed(job_stack: JobStack, client: JobClient) -> None:
    (job_stack.control / "loud.print").write_text("a line\nanother\n")
    job_stack.hold("loud")
    job, _ = client.submit(tokenizer(job_stack, "loud"))
    job_stack.await_work("loud")
    assert list(client.logs(job.id)) == []
    followed = client.logs(job.id, follow=True)
    job_stack.release("loud")
    lines = [(line.source, line.attempt, line.line) for line in followed]
    assert lines == [("worker", 1, "a line"), ("worker", 1, "another")]
    assert [line.line for line in client.logs(job.id)] == ["a line", "another"]


def test_a_watch_outlives_its_server_and_shows_nothing_twice(job_stack: JobStack) -> None:
    job_stack.hold("outlived")
    notices: list[str] = []
    with job_stack.client(notice=notices.append) as client:
        job, _ = client.submit(tokenizer(job_stack, "outlived"))
        replies: list[jobs_pb2.WatchResponse] = []
        for reply in client.watch(job.id):
            replies.append(reply)
            if len(events(replies)) >= 5 and "data" in job_stack.servers:
                # The trainer's server knows as much.
                job_stack.end_server("data", signal.SIGKILL)
            if len(events(replies)) >= 10 and job_stack.is_held("outlived"):
                job_stack.release("outlived")
    job_stack.start_server("data")
    turns = [event["done"] for event in events(replies) if event["type"] == "progress"]
    assert turns == list(range(1, len(turns) + 1))
    assert replies[-1].job.artifact == "tokenizer/outlived@1"
    assert notices == ["the connection is lost; trying again", "connected again"]


@pytest.mark.slow
def test_a_watch_without_any_server_gives_up_after_a_while_with_one_line(job_stack: JobStack) -> None:
    job_stack.hold("abandoned")
    with job_stack.client(patience=1.0) as client:
        job, _ = client.submit(tokenizer(job_stack, "abandoned"))
        job_stack.await_work("abandoned")
        watch = client.watch(job.id)
        next(watch)
        for service in list(job_stack.servers):
            job_stack.end_server(service)
        with pytest.raises(RpcFailed, match=r"nothing answers at .*yuan up"):
            list(watch)
    job_stack.release("abandoned")
    for service in ("data", "trainer"):
        job_stack.start_server(service)
