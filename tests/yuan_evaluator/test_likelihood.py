"""Answers chosen by likelihood: of a served model, the sums of log-softmax that the plain model gives."""

import json
import math
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from tests.http_stack import HttpStack, http_stack
from tests.tiny_models import make_model, make_tokenizer, write_text
from tests.yuan_evaluator.scripted import EvaluatorHome, Scripted, serving

from yuan_corpus import Tokenizer
from yuan_evaluator.likelihood import judge
from yuan_evaluator.task import Choices
from yuan_events import Interrupted, Message
from yuan_model import load_model

QUESTIONS = [
    ("Is a day longer than a minute?", {"Yes, it is": 1, "No": 0}, {"Yes, it is": 1, "It is longer": 1, "No": 0}),
    ("Shall I compare thee to a day?", {"No": 0, "你好 世界": 1, "x = y + 1;": 0}, {"No": 0, "Yes": 1, "day": 1}),
    ("What is naïve?", {"a summer's day": 0, "Not knowing much": 1, "thee": 0}, {"thee": 0, "Not knowing much": 1}),
    ("Which is a number?", {"3": 1, "I": 0, "thee": 0, "day": 0}, {"3": 1, "I": 0, "day": 0}),
]
PROBLEMS = ["1+1=?\nA. 2\nB. 3\nC. 4\nD. 5", "2+1=?\nA. 2\nB. 3\nC. 4\nD. 5", "3+1=?\nA. 2\nB. 3\nC. 4\nD. 5"]
ANSWERS = "ABC"


@dataclass(frozen=True)
class Evaluated:
    """What came of a job: its report, its items by task, its messages."""

    report: dict[str, Any]
    items: dict[str, list[Any]]
    told: list[str]


class Served:
    """A model behind an inference service, and evaluate jobs that ask it."""

    def __init__(self, data: Path, model_folder: Path, stack: HttpStack) -> None:
        self.data = data
        self._cluster = stack.file
        self._tokenizer = Tokenizer.load(model_folder / "tokenizer")
        self._model = load_model(model_folder)

    def evaluate(self, *suite: str, data: Path | None = None, **section: Any) -> "Evaluated":
        """Runs a job."""
        home = EvaluatorHome.of_stack(self._cluster)
        done = home.evaluate(
            force=True,
            inputs={"model": "tiny", "data": str(data or self.data)},
            suite=list(suite),
            evaluate={"other_data": True, "answering": "likelihood", **section},
        )
        assert done.artifact is not None
        store = home.store
        try:
            folder = store.open_artifact(done.artifact.reference).path
        finally:
            store.registry.close()
        items = {
            file.stem: [json.loads(line) for line in file.read_text().splitlines()]
            for file in (folder / "items").glob("*.jsonl")
        }
        told = [event.text for event in home.sink.events if isinstance(event, Message)]
        return Evaluated(json.loads((folder / "report.json").read_text()), items, told)

    def plain(self, prompt: str, continuation: str) -> float:
        """Returns what a loop over the plain model's log-softmax gives."""
        head, whole = self._tokenizer.encode(prompt), self._tokenizer.encode(prompt + continuation)
        begin = next((at for at in range(len(head)) if head[at] != whole[at]), len(head))
        with torch.inference_mode():
            logprobs = self._model(torch.tensor([whole]))[0].double().log_softmax(-1)
        return math.fsum(float(logprobs[at - 1, whole[at]]) for at in range(begin, len(whole)))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("likelihood")
    tokenizer = make_tokenizer(root / "tokenizer", write_text(root / "text.txt"))
    make_model(root / "model", tokenizer.eod_id, context=1024)
    shutil.copytree(root / "tokenizer", root / "model/tokenizer")
    (root / "truthfulqa").mkdir()
    rows = [{"question": text, "mc1_targets": one, "mc2_targets": more} for text, one, more in QUESTIONS]
    (root / "truthfulqa/mc_task.v1.json").write_text("\n".join(json.dumps(row) for row in rows))
    (root / "yuan-datasets/AGIEval-Math").mkdir(parents=True)
    lines = [f"{one.replace(chr(10), '<n>')}[SEP]答案：{gold}" for one, gold in zip(PROBLEMS, ANSWERS, strict=True)]
    (root / "yuan-datasets/AGIEval-Math/mathqa.txt").write_text("\n".join(lines))
    with http_stack(root, root / "model") as stack:
        yield Served(root, root / "model", stack)


def test_likelihoods_of_a_served_model_are_the_plain_models_and_the_verdicts_follow(served: Served) -> None:
    found = served.evaluate("truthfulqa_mc", "mathqa", seed=3, cache=False)
    report, items = found.report, found.items
    shares: dict[str, list[float]] = {"mc1": [], "mc2": [], "mathqa": []}
    for row, (question, one, several) in zip(items["truthfulqa_mc"], QUESTIONS, strict=True):
        assert row["prompt"].endswith(f"Q: {question}\nA:")
        expected = [served.plain(row["prompt"], f" {text}") for text in row["choices"]]
        assert row["likelihood"]["logprobs"] == pytest.approx(expected, abs=1e-3)
        assert sorted(row["choices"]) == sorted(one)
        shares["mc1"].append(float(one[row["choices"][expected.index(max(expected))]] == 1))
        weights = {text: math.exp(served.plain(row["prompt"], f" {text}")) for text in several}
        shares["mc2"].append(sum(weights[text] for text in several if several[text]) / sum(weights.values()))
        assert row["right"] == shares["mc1"][-1]
        assert row["likelihood"]["share"] == pytest.approx(shares["mc2"][-1], abs=1e-3)
    for row, gold in zip(items["mathqa"], ANSWERS, strict=True):
        expected = [served.plain(row["prompt"], letter) for letter in "ABCD"]
        assert row["likelihood"]["logprobs"] == pytest.approx(expected, abs=1e-3)
        shares["mathqa"].append(float("ABCD"[expected.index(max(expected))] == gold))
    suite = report["suite"]
    assert suite["truthfulqa_mc"]["score"]["value"] == pytest.approx(sum(shares["mc1"]) / len(QUESTIONS))
    assert suite["truthfulqa_mc"]["mc2"]["value"] == pytest.approx(sum(shares["mc2"]) / len(QUESTIONS), abs=1e-3)
    assert suite["mathqa"]["score"]["value"] == pytest.approx(sum(shares["mathqa"]) / len(PROBLEMS))
    texts = {(question, text) for question, one, several in QUESTIONS for text in (*one, *several)}
    assert report["generation"]["requests"] == len(texts) + 4 * len(PROBLEMS)


def test_a_likelihood_is_not_asked_for_twice(served: Served) -> None:
    first = served.evaluate("mathqa")
    assert first.report["generation"]["requests"] == 4 * len(PROBLEMS)
    second = served.evaluate("mathqa")
    assert second.report["generation"]["requests"] == 0
    assert "12 of 12 answers are known already (12 of them in the cache)" in second.told
    assert (second.items, second.report["suite"]) == (first.items, first.report["suite"])


def test_a_job_that_was_stopped_goes_on_with_the_next_likelihood(tmp_path: Path) -> None:
    folder = tmp_path / "yuan-datasets/AGIEval-Math"
    folder.mkdir(parents=True)
    (folder / "mathqa.txt").write_text("\n".join(f"{number}+1=?[SEP]答案：A" for number in range(20)))
    stop, go_on = threading.Event(), threading.Event()

    def fail(number: int, context: Any) -> None:
        if number == 20:
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        if number >= 40:
            stop.set()
            go_on.wait(60)

    servicer = Scripted(lambda request: "", fail)
    tree: dict[str, Any] = {
        "inputs": {"model": "oracle", "data": str(tmp_path)},
        "suite": ["mathqa"],
        "evaluate": {"answering": "likelihood", "other_data": True, "in_flight": 4, "cache": False},
    }
    with serving(servicer) as port:
        home = EvaluatorHome(tmp_path, port)
        home.publish("oracle", {"config.json": "{}"})
        with pytest.raises(Interrupted):
            home.evaluate(**tree, stop=stop.is_set)
        go_on.set()
        assert len(servicer.scored) < 60
        done = home.evaluate(**tree)
    assert done.summary["scores"] == {"mathqa": 1.0}  # A has the smallest code
    # All 80 texts, the one that was refused, and four that may have been under way.
    assert len(set(servicer.scored)) == 80
    assert len(servicer.scored) <= 85
    told = [event.text for event in home.sink.events if isinstance(event, Message)]
    assert "the inference service answers again" in told
    assert any("of this job's earlier attempt" in text for text in told)


def test_a_question_that_is_longer_than_the_context_is_named_and_counts_as_wrong(
    served: Served, tmp_path: Path
) -> None:
    shutil.copytree(served.data / "yuan-datasets", tmp_path / "yuan-datasets")
    file = tmp_path / "yuan-datasets/AGIEval-Math/mathqa.txt"
    file.write_text(f"{file.read_text()}\n{'1+1 ' * 800}[SEP]答案：A")
    evaluated = served.evaluate("mathqa", data=tmp_path)
    last = evaluated.items["mathqa"][-1]
    assert (last["right"], last["likelihood"]["chosen"]) == (0.0, None)
    assert "1024" in last["likelihood"]["error"]
    found = evaluated.report["suite"]["mathqa"]
    assert (found["not_answered"], found["items"]) == (1, len(PROBLEMS) + 1)
    assert found["not_answered_why"] == last["likelihood"]["error"]


def test_examples_stand_before_a_question_whose_prompt_has_none_of_its_own(served: Served) -> None:
    found = served.evaluate("mathqa", "truthfulqa_mc", few_shot=2)
    without = served.evaluate("mathqa", "truthfulqa_mc").items
    for row, plain in zip(found.items["mathqa"], without["mathqa"], strict=True):
        assert row["prompt"].endswith(plain["prompt"])
        assert row["prompt"].count("故选") == 3
        expected = [served.plain(row["prompt"], letter) for letter in "ABCD"]
        assert row["likelihood"]["logprobs"] == pytest.approx(expected, abs=1e-3)
    assert [row["prompt"] for row in found.items["truthfulqa_mc"]] == [
        row["prompt"] for row in without["truthfulqa_mc"]
    ]
    assert any(text.startswith("truthfulqa_mc: few_shot is not used") for text in found.told)


def test_the_length_of_an_answer_is_divided_out() -> None:
    choices = Choices("", (" a", " much longer"), frozenset({1}))
    found = judge(choices, [-2.0, -6.0])
    assert (found.chosen, found.right, found.right_by_length) == (0, False, True)
