"""A cycle of co-training, as a user has it: requests, a run that is killed, one that ends it, an empty month."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.small_stack
from tests.small_stack import SmallStack
from yuan_jobs import WorkContext, WorkResult
from yuan_jobs.registry import Registry
from yuan_jobs.teaching import RequestState, request_of_plain
from yuan_jobs.teaching_registry import file_request, find_request, review_request

from .conftest import User, check_nothing_is_left

PATIENCE_S = 240
MANIFESTS = {
    "gather": "kind: gather\noutputs: {requests: asked}",
    "tokenize": "kind: tokenize\ninputs: {tokenizer: small, requests: asked}\ntokenize: {workers: 1}\n"
    "outputs: {dataset: asked}",
    "finetune": "kind: finetune\ntopology: {nodes: {devices: 1, device: cpu}, parallel: {zero_stage: 0}}\n"
    "inputs: {tokenizer: small, datasets: [{name: asked}], model: small}\n"
    "data: {sequence_length: 32, split: [1, 0, 0]}\n"
    "train: {steps: 80, global_batch_size: 4, micro_batch_size: 4, precision: fp32}\n"
    "optimizer: {lr: 1.0e-2, min_lr: 1.0e-3}\nevaluation: {samples: 0}\noutputs: {model: candidate}",
    "evaluate": "kind: evaluate\ntopology: {nodes: {devices: 1, device: cpu}}\n"
    "inputs: {model: small, requests: asked}\nsuite: [requests, requests_learned]\n"
    "evaluate: {profile: strict, max_tokens: 8}\noutputs: {report: old}",
    "judge": "kind: judge\ninputs: {model: candidate, requests: asked, report: new, baseline: old}\n"
    "gate: {tasks: {requests_learned: -0.5}}\noutputs: {report: changelog}",
    "release": "kind: release\ninputs: {model: candidate, report: changelog}\noutputs: {model: small}",
    "answer": "kind: answer\ninputs: {requests: asked, report: changelog}\nreleased: small\noutputs: {report: answers}",
}
PIPELINE = """
version: 1
kind: pipeline
name: cycle
steps:
  gather: {manifest: gather.yaml}
  tokenize: {manifest: tokenize.yaml, needs: [gather]}
  finetune: {manifest: finetune.yaml, needs: [tokenize]}
  before: {manifest: evaluate.yaml, needs: [gather]}
  after:
    manifest: evaluate.yaml
    needs: [finetune, before]
    overrides: {inputs: {model: candidate, report: old}, outputs: {report: new}}
  judge: {manifest: judge.yaml, needs: [after]}
  release: {manifest: release.yaml, needs: [judge]}
  answer: {manifest: answer.yaml, needs: [release]}
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[User, Registry]]:
    """A user with a model that can be served, and a cycle's manifests."""
    made = tests.small_stack._model_work

    def with_tokenizer(context: WorkContext) -> WorkResult:
        result = made(context)
        ignored = shutil.ignore_patterns("artifact.json")
        shutil.copytree(context.inputs["tokenizer"].path, context.output / "tokenizer", ignore=ignored)
        return result

    monkeypatch.setattr(tests.small_stack, "_model_work", with_tokenizer)
    stack = SmallStack(tmp_path)
    for name, text in MANIFESTS.items():
        (tmp_path / f"{name}.yaml").write_text(f"version: 1\nname: cycle-{name}\n{text}\n")
    (tmp_path / "cycle.yaml").write_text(PIPELINE)
    user = User(tmp_path)
    user.environment |= {"YUAN_CLUSTER": str(stack.file), "OMP_NUM_THREADS": "1"}
    registry = stack.store.registry
    yield user, registry
    registry.close()
    check_nothing_is_left(user)


def ask(registry: Registry, scenario: str, *, accept: bool = True) -> str:
    examples = [{"input": f"{scenario} {word}", "output": word * 2} for word in ("day", "summer", "thee", "compare")]
    tree = {"scenario": scenario, "behaviour": "say it twice", "author": "Ada", "examples": examples}
    request = file_request(registry, request_of_plain(tree), "ada")
    if accept:
        review_request(registry, request.id, accept=True, why="useful", who="bo", revision=1)
    return request.id


def kill_in_the_training(user: User) -> None:
    """Starts a cycle, and kills all of it once its model is being trained."""
    run: subprocess.Popen[str] = user.starts("run", "cycle.yaml")
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not list(user.home.glob("runs/cycle-finetune*/metrics.jsonl")):
            assert run.poll() is None, run.communicate(timeout=30)
            assert time.monotonic() < deadline, "the training did not begin"
            time.sleep(0.1)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.communicate(timeout=30)
    while user.processes():
        assert time.monotonic() < deadline, "ranks end with the command that started them"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_cycle_learns_what_was_asked_publishes_it_and_answers_also_after_a_kill(user: tuple[User, Registry]) -> None:
    someone, registry = user
    asked = [ask(registry, scenario) for scenario in ("shout", "count")]
    waiting = ask(registry, "sing", accept=False)
    kill_in_the_training(someone)
    assert {find_request(registry, one).state for one in asked} == {RequestState.IN_CYCLE}

    told = someone.does("run", "cycle.yaml")
    assert "cycle-gather: done before" in told
    assert "2 requests are answered: model/small@2" in told
    made = {f"{one['kind']}/{one['name']}": one["version"] for one in json.loads(someone.does("artifacts", "--json"))}
    assert (made["model/small"], made["requests/asked"], made["dataset/asked"]) == (2, 1, 1)
    page = (Path(json.loads(someone.does("show", "model/small@2", "--json"))["path"]) / "CHANGELOG.md").read_text()
    for one in asked:
        done = find_request(registry, one)
        assert done.state == RequestState.ANSWERED
        assert (done.answer["model"], done.answer["published"]) == ("model/small@2", True)
        learned = [said for said in done.answer["examples"] if not said["held_out"]]
        assert len(learned) == 3
        assert sum(said["right"] for said in learned) >= 2, "the model says now what was asked for"
        assert one in page
    assert find_request(registry, waiting).state == RequestState.FILED

    empty = someone.does("run", "cycle.yaml")
    assert "cycle-gather: nothing to do: nothing accepted" in empty
    assert empty.count("skipped: nothing accepted") == 7
    assert [find_request(registry, one).answer["model"] for one in asked] == ["model/small@2"] * 2
