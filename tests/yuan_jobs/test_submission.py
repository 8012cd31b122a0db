"""What is submitted twice is one job; what is submitted is on the queue with the message that wakes a worker."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from queue_toys import generate, job, pipeline, publish, steps, take, tokenize, tokenizer, worker

from yuan_events import InputError
from yuan_jobs.control import cancel
from yuan_jobs.reconciler import unsent
from yuan_jobs.registry import Registry
from yuan_jobs.requests import JobRequest, PipelineRequest, StepRequest, request_from_plain, request_to_plain
from yuan_jobs.states import JobState
from yuan_jobs.submission import IdempotencyConflict, submit
from yuan_manifest import Topology, job_of_plain
from yuan_manifest.schema import Nodes


def make_artifact(registry: Registry, kind: str = "tokenizer", name: str = "demo") -> None:
    claim = take(registry, submit(registry, tokenizer(), force=True)[0].id, worker(registry))
    publish(registry, claim, kind, name)


def test_a_submitted_job_is_queued_with_a_message_for_its_service(registry: Registry) -> None:
    record, reused = submit(registry, tokenizer())
    assert (record.state, record.queue, record.attempt, reused) == (JobState.QUEUED, "data", 0, False)
    assert unsent(registry) == 1


def test_what_waits_or_runs_is_not_submitted_again(registry: Registry) -> None:
    first, _ = submit(registry, tokenizer())
    assert submit(registry, tokenizer()) == (first, True)
    take(registry, first.id, worker(registry))
    again, reused = submit(registry, tokenizer())
    assert (again.id, again.state, reused) == (first.id, JobState.RUNNING, True)
    assert unsent(registry) == 1


def test_another_recipe_is_another_job(registry: Registry) -> None:
    assert submit(registry, tokenizer())[0].id != submit(registry, tokenizer(seed=2))[0].id


def test_another_version_of_an_input_makes_another_job(registry: Registry) -> None:
    make_artifact(registry)
    first, _ = submit(registry, tokenize())
    make_artifact(registry)
    second, reused = submit(registry, tokenize())
    assert (second.id != first.id, reused) == (True, False)


def test_force_makes_a_new_job_whatever_waits(registry: Registry) -> None:
    first, _ = submit(registry, tokenizer())
    second, reused = submit(registry, tokenizer(), force=True)
    assert (second.id != first.id, second.force, reused) == (True, True, False)


def test_a_finished_job_of_text_is_looked_at_again_by_a_worker(registry: Registry) -> None:
    first, _ = submit(registry, tokenizer())
    publish(registry, take(registry, first.id, worker(registry)))
    second, reused = submit(registry, tokenizer())
    assert (second.id != first.id, reused) == (True, False)


def test_a_finished_job_of_artifacts_alone_is_returned(registry: Registry) -> None:
    make_artifact(registry, "model")
    first, _ = submit(registry, generate())
    publish(registry, take(registry, first.id, worker(registry, "inference")), "report")
    again, reused = submit(registry, generate())
    assert (again.id, again.artifact, reused) == (first.id, "report/demo@1", True)
    assert submit(registry, generate(), force=True)[1] is False


def test_a_job_that_ended_badly_is_submitted_anew(registry: Registry) -> None:
    first, _ = submit(registry, tokenizer())
    cancel(registry, first.id)
    second, reused = submit(registry, tokenizer())
    assert (second.id != first.id, reused) == (True, False)


def test_an_idempotency_key_makes_two_submits_one(registry: Registry) -> None:
    first, _ = submit(registry, tokenizer(), force=True, idempotency_key="k")
    assert submit(registry, tokenizer(), force=True, idempotency_key="k") == (first, True)
    publish(registry, take(registry, first.id, worker(registry)))
    assert submit(registry, tokenizer(), force=True, idempotency_key="k")[0].state == JobState.SUCCEEDED


def test_an_idempotency_key_of_another_job_is_refused(registry: Registry) -> None:
    submit(registry, tokenizer(), idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match="idempotency key k: used before for another request, job first-"):
        submit(registry, tokenizer(seed=2), idempotency_key="k")


def test_an_idempotency_key_stands_for_all_that_was_asked_for(registry: Registry) -> None:
    first, _ = submit(registry, tokenizer(), idempotency_key="k")
    for other in (
        replace(tokenizer(), folder="/elsewhere"),
        replace(tokenizer(), topology=Topology(nodes=Nodes(count=2))),
    ):
        with pytest.raises(IdempotencyConflict):
            submit(registry, other, idempotency_key="k")
    assert submit(registry, tokenizer(), idempotency_key="k") == (first, True)


def test_an_idempotency_key_is_kept_also_where_the_job_was_there_before(registry: Registry) -> None:
    first, _ = submit(registry, tokenizer())
    assert submit(registry, tokenizer(), idempotency_key="k") == (first, True)
    assert submit(registry, tokenizer(), idempotency_key="another") == (first, True)
    with pytest.raises(IdempotencyConflict):
        submit(registry, tokenizer(seed=2), idempotency_key="k")


def test_the_same_words_in_another_folder_are_another_job(registry: Registry) -> None:
    here, there = (replace(tokenizer(), folder=folder) for folder in ("/here", "/there"))
    first, _ = submit(registry, here)
    second, reused = submit(registry, there)
    assert (second.id != first.id, reused) == (True, False)
    assert submit(registry, here) == (first, True)


@pytest.mark.parametrize("text", ["/texts/*.txt", "~/texts/*.txt", "python-stdlib:", "s3://texts/a.txt"])
def test_paths_that_mean_the_same_everywhere_are_the_same_job(registry: Registry, text: str) -> None:
    manifest: dict[str, Any] = {"version": 1, "kind": "tokenizer", "name": "n", "inputs": {"text": [text]}}
    manifest["outputs"] = {"tokenizer": "t"}
    here, there = (JobRequest(job_of_plain(manifest), Topology(), folder) for folder in ("/here", "/there"))
    first, _ = submit(registry, here)
    assert submit(registry, there) == (first, True)


def test_a_pipeline_is_a_job_with_a_job_for_each_step(registry: Registry) -> None:
    record, reused = submit(registry, pipeline())
    parts = steps(registry, record.id)
    assert (record.kind, record.state, record.queue, reused) == ("pipeline", JobState.RUNNING, None, False)
    assert (parts["train"].state, parts["train"].needs) == (JobState.QUEUED, ())
    assert (parts["cut"].state, parts["cut"].needs) == (JobState.WAITING, (parts["train"].id,))
    assert unsent(registry) == 1


def test_a_pipeline_is_the_same_also_after_its_first_step(registry: Registry) -> None:
    record, _ = submit(registry, pipeline())
    publish(registry, take(registry, steps(registry, record.id)["train"].id, worker(registry)))
    assert submit(registry, pipeline()) == (job(registry, record.id), True)


SUBMITTER = """
import sys
sys.path.append(sys.argv[2])
from queue_toys import pipeline, tokenizer
from yuan_jobs.registry import Registry
from yuan_jobs.submission import submit
registry = Registry.open(sys.argv[1])
sys.stdin.readline()
print(submit(registry, tokenizer())[0].id, submit(registry, pipeline())[0].id)
"""


@pytest.mark.parametrize("registry_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_the_same_submitted_by_several_processes_at_once_is_one_job(registry_url: str) -> None:
    folder = __file__.rpartition("/")[0]
    command = [sys.executable, "-c", SUBMITTER, registry_url, folder]
    processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(2)]
    ids = {line for process in processes for line in [process.communicate("go\n")[0]]}
    assert len(ids) == 1


def test_a_request_survives_the_wire(registry: Registry) -> None:
    for request in (tokenizer(), pipeline()):
        assert request_from_plain(*request_to_plain(request)) == request


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"steps": {}}, "submitted pipeline both: steps: missing"),
        ({"name": ""}, "submitted pipeline: name: missing"),
        ({"steps": {"a": {"needs": ["b"]}}}, "submitted step a: job: missing"),
    ],
)
def test_a_wrong_pipeline_of_the_wire_is_refused_in_one_line(change: dict[str, object], line: str) -> None:
    tree, _ = request_to_plain(pipeline())
    with pytest.raises(InputError, match=line):
        request_from_plain(tree | change, {})


def test_steps_that_need_each_other_or_nobody_are_refused() -> None:
    circle = PipelineRequest("x", (StepRequest("a", ("b",), tokenizer()), StepRequest("b", ("a",), tokenizer())))
    with pytest.raises(InputError, match="steps a, b need each other in a circle"):
        request_from_plain(*request_to_plain(circle))
    lost = PipelineRequest("x", (StepRequest("a", ("c",), tokenizer()),))
    with pytest.raises(InputError, match="step a needs c, which is none"):
        request_from_plain(*request_to_plain(lost))
