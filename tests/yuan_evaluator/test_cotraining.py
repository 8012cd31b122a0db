"""The gate of a co-training cycle, its changelog, and the answers: on reports as evaluations leave them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from yuan_converter.release import release_work
from yuan_data.gather import divide, write
from yuan_evaluator.answering import answer_work
from yuan_evaluator.judging import judge_work
from yuan_evaluator.task import Answer as Written
from yuan_evaluator.task import Rules
from yuan_evaluator.tasks import all_tasks
from yuan_events import InputError, NullSink, WorkFailed
from yuan_jobs import ArtifactHandle, WorkContext, WorkResult
from yuan_jobs.cycles import CycleBook
from yuan_jobs.models import JobRow
from yuan_jobs.records import Claim
from yuan_jobs.references import ArtifactNotFound
from yuan_jobs.registry import Registry, now
from yuan_jobs.states import JobState
from yuan_jobs.teaching import RequestState, request_of_plain
from yuan_jobs.teaching_registry import file_request, find_request, review_request
from yuan_manifest import ManifestError, Topology, job_of_plain
from yuan_manifest.schema import GatherSection

ITEMS = 20


class Cycle:
    """A registry with one request in a cycle, and a folder of artifacts as its jobs make them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry.open(f"sqlite:///{folder / 'registry.db'}")
        self.artifacts: dict[str, ArtifactHandle] = {}
        self.runs = 0
        examples = [{"input": f"say {number}", "output": str(number)} for number in range(4)]
        tree = {"scenario": "talk", "behaviour": "repeat the number", "author": "Ada", "examples": examples}
        self.request = file_request(self.registry, request_of_plain(tree), "ada").id
        review_request(self.registry, self.request, accept=True, why="yes", who="bo", revision=1)
        requests = self.book("gather").gather()
        rows, _ = divide(requests, GatherSection())
        write(self.add("requests/asked", {}), rows, "gather")
        self.examples = rows[0]["examples"]
        self.add("model/old", {})
        (self.add("model/new", {"model": "model/old@1"}) / "weights").write_text("w")

    def book(self, job_id: str) -> CycleBook:
        """Returns the book of a job that runs."""
        with self.registry.database.writing() as session:
            session.merge(
                JobRow(
                    id=job_id, kind="answer", name="x", recipe={}, inputs={}, topology={}, state=JobState.RUNNING,
                    attempt=1, created=now(), queue="data",
                )
            )  # fmt: skip
        return CycleBook(self.registry, Claim(job_id, 1, None))

    def add(self, name: str, inputs: Mapping[str, str]) -> Path:
        """Publishes a folder, to be filled, as the only version of a name."""
        kind, _, short = name.partition("/")
        path = self.folder / kind / short
        path.mkdir(parents=True)
        sources = {key: {"artifact": reference, "digest": "d"} for key, reference in inputs.items()}
        metadata = {"inputs": sources, "files": [{"path": "weights"}], "summary": {}}
        self.artifacts[f"{name}@1"] = ArtifactHandle(kind, short, 1, path, "d" * 64, metadata)
        return path

    def report(self, name: str, model: str, right: int, *, perplexity: float = 10.0) -> None:
        """Publishes a report in which a model has so many of 20 questions of GSM8K right, and says 0 to everything."""
        folder = self.add(f"report/{name}", {"model": model})
        (folder / "items").mkdir()
        gsm8k = [{"item": str(n), "right": float(n < right), "samples": []} for n in range(ITEMS)]
        asked = [
            {
                "item": one["id"],
                "right": float(one["output"] == "0"),
                "samples": [{"text": "0", "right": one["output"] == "0"}],
            }
            for one in self.examples
        ]
        held = {one["id"] for one in self.examples if one["held_out"]}
        tasks = {
            "gsm8k": gsm8k,
            "requests": [row for row in asked if row["item"] in held],
            "requests_learned": [row for row in asked if row["item"] not in held],
        }
        for task, rows in tasks.items():
            (folder / "items" / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        suite: dict[str, Any] = {task: {"title": task.upper()} for task in tasks}
        suite["perplexity"] = {"perplexity": perplexity, "samples": 8}
        whole = {"model": model, "settings": {"bootstrap": 200, "seed": 1}, "suite": suite}
        (folder / "report.json").write_text(json.dumps(whole))

    def open(self, reference: str) -> ArtifactHandle:
        full = reference if "@" in reference else f"{reference}@1"
        if full not in self.artifacts:
            raise ArtifactNotFound(f"artifact {reference} does not exist")
        return self.artifacts[full]

    def does(self, work: Any, name: str, inputs: Mapping[str, str], **tree: Any) -> tuple[WorkResult, Path]:
        """Does a job's work; returns its result and what it wrote."""
        self.runs += 1
        output = self.folder / f"output-{self.runs}"
        output.mkdir()
        plain = {key: reference.partition("/")[2] for key, reference in inputs.items()}
        job = job_of_plain({"version": 1, "kind": name, "name": name, "inputs": plain, **tree})
        handles = {key: self.open(reference) for key, reference in inputs.items()}
        context = WorkContext(
            job, Topology(), handles, output, output, NullSink(), open_artifact=self.open, cycle=self.book(name)
        )
        return work(context), output

    def judge(self, **gate: Any) -> tuple[WorkResult, Path]:
        inputs = {"model": "model/new", "requests": "requests/asked"}
        inputs |= {"report": "report/after", "baseline": "report/before"}
        result, output = self.does(judge_work, "judge", inputs, gate=gate, outputs={"report": "changelog"})
        handle = ArtifactHandle("report", "changelog", 1, output, "d" * 64)
        self.artifacts["report/changelog@1"] = handle
        return result, output

    def release(self) -> tuple[WorkResult, Path]:
        inputs = {"model": "model/new", "report": "report/changelog"}
        result, output = self.does(release_work, "release", inputs, outputs={"model": "mine"})
        if not result.nothing:
            self.add("model/mine", inputs={"model": "model/new@1", "report": "report/changelog@1"})
        return result, output

    def answer(self) -> WorkResult:
        inputs = {"requests": "requests/asked", "report": "report/changelog"}
        tree = {"released": "mine", "outputs": {"report": "answers"}}
        return self.does(answer_work, "answer", inputs, **tree)[0]


@pytest.fixture
def cycle(tmp_path: Path) -> Cycle:
    made = Cycle(tmp_path)
    made.report("before", "model/old@1", 10)
    return made


def test_a_model_that_passes_is_published_with_its_changelog_and_each_request_is_answered_once(cycle: Cycle) -> None:
    cycle.report("after", "model/new@1", 9)
    result, judged = cycle.judge(worse_by=0.05)
    assert result.summary["published"] is True
    released, model = cycle.release()
    assert (released.nothing, sorted(file.name for file in model.iterdir())) == ("", ["CHANGELOG.md", "weights"])
    page = (judged / "CHANGELOG.md").read_text()
    for part in (
        "model/new@1 has learned since model/old@1",
        cycle.request,
        "3 examples learned, 1 held out",
        "d" * 64,
    ):
        assert part in page
    assert "| GSM8K | 50.0 | 45.0 | -5.0 |" in page
    assert cycle.answer().summary["model"] == "model/mine@1"
    done = find_request(cycle.registry, cycle.request)
    assert (done.state, done.answer["model"], done.answer["published"]) == (RequestState.ANSWERED, "model/mine@1", True)
    assert {said["now"] for said in done.answer["examples"]} == {"0"}
    assert sum(said["held_out"] for said in done.answer["examples"]) == 1
    again = cycle.answer()
    assert (again.summary["answered"], again.summary["before"]) == (0, 1)
    assert find_request(cycle.registry, cycle.request) == done


def test_a_model_that_fell_too_far_is_not_published_and_the_request_reads_why(cycle: Cycle) -> None:
    cycle.report("after", "model/new@1", 8)
    assert cycle.judge(worse_by=0.05)[0].summary["published"] is False
    assert cycle.release()[0].nothing.startswith("not published: GSM8K: 50.0 % -> 40.0 % (-10.0); the gate wants -5.0")
    cycle.answer()
    answer = find_request(cycle.registry, cycle.request).answer
    assert (answer["published"], answer["model"]) == (False, "model/old@1")
    assert "the gate wants -5.0 at least, found -10.0" in answer["why"]


@pytest.mark.parametrize(
    ("right", "perplexity", "gate", "passes"),
    [
        (10, 10.0, {}, True),
        (9, 10.0, {}, False),
        (9, 10.0, {"tasks": {"gsm8k": 0.05}}, True),
        (11, 10.0, {"tasks": {"gsm8k": -0.1}}, False),
        (12, 10.0, {"tasks": {"gsm8k": -0.1}}, True),
        (10, 10.4, {}, False),
        (10, 10.4, {"perplexity_rise": 0.05}, True),
        (9, 10.0, {"worse_by": 0.05, "confident": True}, False),
        (10, 10.0, {"tasks": {"requests_learned": -0.5}}, False),
    ],
)
def test_the_gate_lets_through_what_it_says(
    cycle: Cycle, right: int, perplexity: float, gate: dict[str, Any], *, passes: bool
) -> None:
    cycle.report("after", "model/new@1", right, perplexity=perplexity)
    assert cycle.judge(**gate)[0].summary["published"] is passes


def test_reports_that_are_not_of_these_models_are_refused(cycle: Cycle) -> None:
    cycle.report("after", "model/other@1", 10)
    with pytest.raises(InputError, match=r"inputs.report report/after@1 is of model/other@1, not of model/new@1"):
        cycle.judge()
    with pytest.raises(ManifestError, match=r"gate.tasks.gsm9k: expected one of .* did you mean gsm8k"):
        cycle.judge(tasks={"gsm9k": 0.1})
    file = cycle.artifacts["report/after@1"].path / "report.json"
    file.write_text(file.read_text().replace("model/other", "model/new"))
    with pytest.raises(InputError, match=r"gate.tasks.mathqa: not in both reports, which have gsm8k"):
        cycle.judge(tasks={"mathqa": 0.1})


def test_an_answer_before_the_release_fails_and_answers_nothing(cycle: Cycle) -> None:
    cycle.report("after", "model/new@1", 10)
    cycle.judge()
    with pytest.raises((WorkFailed, InputError), match="model/mine"):
        cycle.answer()
    assert find_request(cycle.registry, cycle.request).state == RequestState.IN_CYCLE


def test_what_a_request_wants_is_compared_without_blanks_at_ends_of_lines() -> None:
    task = all_tasks()["requests"]
    item = task.read('{"id": "r.0", "request": "r", "input": "write f", "output": "def f():\\n    pass"}', 0, {})
    assert task.prompt(item, Rules()) == "write f<sep>"
    for text, right in (("def f():  \n    pass\n", True), ("def f():\npass", False), ("", False)):
        assert task.score(item, task.extract(item, Written(text), Rules()), Rules()) is right
