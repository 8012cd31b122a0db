"""Whole evaluations against a service whose answers are known: scores, files, and what happens when things go wrong."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.machine import wait_until
from tests.yuan_evaluator.scripted import EvaluatorHome, Scripted, serving

from yuan_evaluator.benchmark_data import read_task, with_examples
from yuan_evaluator.task import Profile, Rules
from yuan_evaluator.tasks import ORIGINAL, all_tasks
from yuan_events import InputError, Interrupted, Message, WorkFailed
from yuan_jobs.deployments import deployments

DATA = Path(__file__).parents[2].parent / "shared/data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def oracle(profile: Profile, wrong: Callable[[str, int], bool] = lambda task, number: False) -> dict[str, str]:
    """Returns the right answer to every prompt of the suite; `wrong` ones are of the next question."""
    rules = Rules(profile)
    found: dict[str, str] = {}
    for name in ORIGINAL:
        task = all_tasks()[name]
        for number, item in enumerate(read_task(task, str(DATA)).items):
            one = task.prepare(item, rules)
            text = {
                "gsm8k": f"先算一算。\n答案是{one.gold}。",
                "mathqa": f"分析如下。\n故选{one.gold}。",
                "mathcloze": f"\\boxed{{{one.gold}}}" if profile == Profile.yuan else f"所以\n答案是{one.gold}",
                "truthfulqa": f"正确答案是{one.gold}选项。",
                "humaneval": str(one.more.get("solution", "")),
            }[name]
            found[task.prompt(one, rules)] = "不知道" if wrong(name, number) else text
    return found


@pytest.fixture
def home(tmp_path: Path) -> Callable[[int], EvaluatorHome]:
    def make(port: int) -> EvaluatorHome:
        made = EvaluatorHome(tmp_path, port)
        made.publish("oracle", {"config.json": "{}"})
        return made

    return make


INPUTS = {"model": "oracle", "data": str(DATA)}


def notes(home: EvaluatorHome) -> str:
    return "\n".join(event.text for event in home.sink.events if isinstance(event, Message))


@needs_data
@pytest.mark.parametrize("profile", list(Profile))
def test_a_model_that_knows_all_answers_scores_all_and_everything_is_written_down(
    home: Callable[[int], EvaluatorHome], profile: Profile
) -> None:
    answers = oracle(profile, wrong=lambda task, number: task == "gsm8k" and number % 4 == 1)
    servicer = Scripted(lambda request: answers[request.prompt])
    with serving(servicer) as port:
        here = home(port)
        outcome = here.evaluate(inputs=INPUTS, suite=["yuan"], evaluate={"profile": profile.value, "limit": 8})
    assert outcome.summary["scores"] == {
        "humaneval": 1.0, "gsm8k": 0.75, "mathqa": 1.0, "mathcloze": 1.0, "truthfulqa": 1.0,
    }  # fmt: skip
    report = json.loads((outcome.path / "report.json").read_text())
    assert report["sandbox"] in ("namespaces", "bubblewrap")
    assert report["settings"]["data"]["gsm8k"].keys() == {"yuan-datasets/GSM8K/gsm8k_Cn.txt"}
    rows = [json.loads(line) for line in (outcome.path / "items/gsm8k.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert rows[0]["prompt"].startswith("详细分析并求解以下数学问题。\n")
    assert rows[0]["prompt"].endswith("<sep>")
    assert [row["right"] for row in rows] == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert rows[0]["samples"][0]["extracted"] == rows[0]["gold"]
    for name in ("report.md", "report.html", "items/humaneval.html"):
        text = (outcome.path / name).read_text()
        assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|<link|@import|url\(["']?http""", text), name
    text = (outcome.path / "report.md").read_text()
    assert "| GSM8K (Chinese) | 75.0 |" in text
    assert "*Yuan2.0-102B-SC (published)* | *77.4* | *86.2* | *45.5* | *15.2* | *58.0* |" in text
    # Not deployed before: the stack serves it from now on.
    assert servicer.loaded == ["oracle"]
    assert "is served as oracle from now on" in notes(here)


@needs_data
def test_a_model_that_is_served_for_jobs_alone_goes_with_the_last_of_them(
    home: Callable[[int], EvaluatorHome],
) -> None:
    later_asks, first_has_ended = threading.Event(), threading.Event()

    def answer(request: object) -> str:
        del request
        if len(servicer.requests) == 1:
            assert later_asks.wait(180)
        else:
            later_asks.set()
            assert first_has_ended.wait(180)
        return "正确答案是A选项。"

    def evaluate(here: EvaluatorHome, name: str) -> None:
        settings = {"limit": 1, "keep_served": False, "cache": False, "contamination": False, "bootstrap": 0}
        here.evaluate(inputs=INPUTS, suite=["truthfulqa"], name=name, evaluate=settings, outputs={"report": name})

    servicer = Scripted(answer)
    with serving(servicer) as port:
        first = home(port)
        later = EvaluatorHome.of_stack(first.folder / "cluster.yaml")
        threads = [threading.Thread(target=evaluate, args=one) for one in ((first, "first"), (later, "later"))]
        threads[0].start()
        wait_until(lambda: len(servicer.requests) == 1)
        threads[1].start()
        threads[0].join(180)
        left = list(servicer.loaded), deployments(first.store.registry)
        first_has_ended.set()
        threads[1].join(180)
    assert left[0] == ["oracle"]
    assert [(record.name, len(record.users or ())) for record in left[1]] == [("oracle", 1)]
    assert "is served as oracle for this job" in notes(first)
    assert "served no longer" not in notes(first)
    assert "answers as oracle" in notes(later)
    assert "oracle is served no longer" in notes(later)
    assert servicer.loaded == []
    assert deployments(first.store.registry) == []


@needs_data
def test_a_constant_answer_scores_one_in_the_originals_profile_and_chance_in_the_strict_one(
    home: Callable[[int], EvaluatorHome],
) -> None:
    with serving(Scripted(lambda request: "正确答案是A选项。")) as port:
        here = home(port)
        scores = [
            here.evaluate(inputs=INPUTS, suite=["truthfulqa"], evaluate={"profile": profile}).summary["scores"][
                "truthfulqa"
            ]
            for profile in ("yuan", "strict")
        ]
    assert scores[0] == 1.0
    assert 0.15 < scores[1] < 0.3


@needs_data
def test_a_job_that_was_stopped_goes_on_with_the_next_unanswered_question_and_a_rerun_asks_nothing(
    home: Callable[[int], EvaluatorHome],
) -> None:
    answers = oracle(Profile.yuan)
    stop, go_on = threading.Event(), threading.Event()
    servicer = Scripted(lambda request: answers[request.prompt])

    def halt(number: int, context: Any) -> None:
        if number >= 60:
            stop.set()
            go_on.wait(60)

    servicer.fail = halt
    tree: dict[str, Any] = {
        "inputs": INPUTS,
        "suite": ["gsm8k"],
        "evaluate": {"limit": 200, "in_flight": 4, "cache": False},
    }
    with serving(servicer) as port:
        here = home(port)
        with pytest.raises(Interrupted):
            here.evaluate(**tree, stop=stop.is_set)
        go_on.set()
        assert len(servicer.requests) < 70
        done = here.evaluate(**tree)
        assert done.summary["scores"] == {"gsm8k": 1.0}
        # Four may have been under way.
        assert 200 <= len(servicer.requests) <= 204
        assert "of this job's earlier attempt" in notes(here)
        # Another job with other scoring and the same prompts finds the answers in the cache, once one was kept there.
        tree["evaluate"]["cache"] = True
        first = here.evaluate(**tree).summary
        count = len(servicer.requests)
        again = here.evaluate(**tree, force=True).summary
        assert len(servicer.requests) == count
        assert first == again
        strict = {**tree["evaluate"], "profile": "strict"}
        assert here.evaluate(**{**tree, "evaluate": strict}).summary["scores"] == {"gsm8k": 1.0}
        assert len(servicer.requests) == count


@needs_data
def test_a_service_that_goes_away_in_mid_run_is_waited_for(home: Callable[[int], EvaluatorHome]) -> None:
    answers = oracle(Profile.yuan)
    reached, gone = threading.Event(), threading.Event()
    servicer = Scripted(lambda request: answers[request.prompt])

    def hang(number: int, context: Any) -> None:
        if number >= 30:  # the first service answers no more of them
            reached.set()
            assert gone.wait(60)

    servicer.fail = hang
    tree: dict[str, Any] = {"inputs": INPUTS, "suite": ["gsm8k"], "evaluate": {"limit": 60, "in_flight": 8}}
    done: list[Any] = []
    with serving(servicer) as port:
        here = home(port)
        thread = threading.Thread(target=lambda: done.append(here.evaluate(**tree)))
        thread.start()
        assert reached.wait(60)
    gone.set()
    with serving(servicer, port):
        thread.join(120)
    assert done
    assert done[0].summary["scores"] == {"gsm8k": 1.0}
    assert "waiting for the inference service: " in notes(here)
    assert "the inference service answers again" in notes(here)


@needs_data
def test_a_full_service_is_asked_again_and_a_refused_prompt_is_a_wrong_answer(
    home: Callable[[int], EvaluatorHome],
) -> None:
    answers = oracle(Profile.yuan)

    def fail(number: int, context: Any) -> None:
        if number % 3 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")

    def answer(request: Any) -> str:
        return answers[request.prompt]

    servicer = Scripted(answer, fail)
    long = next(iter(prompt for prompt in answers if prompt.startswith("详细")))

    def fail_long(number: int, context: Any) -> None:
        fail(number, context)
        if servicer.requests[number - 1].prompt == long:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "prompt: has 9999 tokens")

    servicer.fail = fail_long
    with serving(servicer) as port:
        here = home(port)
        outcome = here.evaluate(inputs=INPUTS, suite=["gsm8k"], evaluate={"limit": 20})
    assert outcome.summary["scores"] == {"gsm8k": 0.95}
    report = json.loads((outcome.path / "report.json").read_text())["suite"]["gsm8k"]
    assert report["not_answered"] == 1
    assert "9999 tokens" in report["not_answered_why"]


@needs_data
def test_many_requests_are_in_flight(home: Callable[[int], EvaluatorHome]) -> None:
    full = threading.Event()

    def wait_for_others(number: int, context: Any) -> None:
        if servicer.running >= 24:
            full.set()
        assert full.wait(60)

    servicer = Scripted(lambda request: "42", wait_for_others, seconds=0.05)
    with serving(servicer) as port:
        home(port).evaluate(inputs=INPUTS, suite=["gsm8k"], evaluate={"limit": 150, "in_flight": 24})
    assert servicer.most_running == 24


@needs_data
def test_samples_have_seeds_of_their_own_are_voted_on_and_compared_with_another_report(
    home: Callable[[int], EvaluatorHome],
) -> None:
    answers = oracle(Profile.strict)
    numbers: dict[str, int] = {}
    lock = threading.Lock()

    def two_of_three(request: Any) -> str:
        with lock:
            number = numbers[request.prompt] = numbers.get(request.prompt, 0) + 1
        return "错了，答案是-1。" if number % 3 == 0 else answers[request.prompt]

    servicer = Scripted(two_of_three)
    section = {"profile": "strict", "limit": 12, "samples": 3}
    with serving(servicer) as port:
        here = home(port)
        first = here.evaluate(inputs=INPUTS, suite=["gsm8k"], evaluate=section)
        seeds = {request.sampling_params.seed for request in servicer.requests}
        assert len(seeds) == 36
        assert all(request.sampling_params.temperature == 0.5 for request in servicer.requests)
        servicer.answer = lambda request: "答案是-1。"
        worse = here.evaluate(
            inputs={**INPUTS, "report": "test"}, suite=["gsm8k"], evaluate={"profile": "strict", "limit": 12}
        )
    report = json.loads((first.path / "report.json").read_text())["suite"]["gsm8k"]
    assert report["voted"]["value"] == report["score"]["value"] == 1.0
    assert report["single"]["value"] == pytest.approx(2 / 3)
    assert report["pass_at_k"]["1"] == pytest.approx(2 / 3)
    assert report["pass_at_k"]["2"] == 1.0
    compared = json.loads((worse.path / "report.json").read_text())["suite"]["gsm8k"]["comparison"]
    assert (compared["report"], compared["items"], compared["difference"]) == ("report/test@1", 12, -1.0)
    assert (compared["better"], compared["worse"]) == (0, 12)
    assert compared["p_value"] == pytest.approx(2 / 2**12)


@needs_data
def test_candidates_are_chosen_by_the_tests_that_the_model_writes(home: Callable[[int], EvaluatorHome]) -> None:
    task = all_tasks()["humaneval"]
    items = read_task(task, str(DATA)).items
    right = {item.question: str(item.more["solution"]) for item in items}
    tests = {
        task.unit_tests.prompt(item): f"_it():\n    assert callable({item.more['entry_point']})\n"
        f"    assert {item.more['entry_point']}.__doc__ is None\n```"
        for item in items
        if task.unit_tests is not None
    }

    def answer(request: Any) -> str:
        if request.prompt in tests:
            return tests[request.prompt]
        if request.sampling_params.seed % 2:
            return right[request.prompt]
        return '    """A docstring, which fails the model\'s tests."""\n    raise ValueError\n'

    with serving(Scripted(answer)) as port:
        outcome = home(port).evaluate(
            inputs=INPUTS,
            suite=["humaneval"],
            evaluate={"profile": "strict", "limit": 10, "samples": 8, "unit_tests": 1},
        )
    report = json.loads((outcome.path / "report.json").read_text())["suite"]["humaneval"]
    assert report["how"] == "chosen by unit tests of 8"
    assert report["selected"]["value"] > report["single"]["value"]
    assert report["selected"]["value"] >= 0.9
    assert report["pass_at_k"]["1"] < report["pass_at_k"]["5"]


@needs_data
def test_few_shot_examples_are_other_items_and_the_same_in_every_run(home: Callable[[int], EvaluatorHome]) -> None:
    servicer = Scripted(lambda request: "42")
    with serving(servicer) as port:
        here = home(port)
        tree: dict[str, Any] = {
            "inputs": INPUTS,
            "suite": ["gsm8k"],
            "evaluate": {"limit": 5, "few_shot": 3, "cache": False},
        }
        here.evaluate(**tree)
        first = sorted(request.prompt for request in servicer.requests)
        servicer.requests.clear()
        here.evaluate(**tree, force=True)
    assert sorted(request.prompt for request in servicer.requests) == first
    for prompt in first:
        assert prompt.count("答案是") == 3
        question = prompt.rpartition("详细分析并求解以下数学问题。\n")[2].removesuffix("<sep>")
        assert prompt.count(question) == 1


TRAIN = """{"question": "Two and two?", "answer": "2+2 = <<2+2=4>>4\\n#### 4"}
{"question": "一共多少？", "answer": "#### 5"}
{"question": "none", "answer": "no number"}
十加十？[SEP]20
"""


def test_worked_examples_of_a_file_have_its_steps_and_never_the_question_itself(
    home: Callable[[int], EvaluatorHome], tmp_path: Path
) -> None:
    own = tmp_path / "data/yuan-datasets/GSM8K"
    own.mkdir(parents=True)
    (own / "gsm8k_Cn.txt").write_text("一共多少？[SEP]5\n三减一？[SEP]2\n")
    (tmp_path / "data/train.jsonl").write_text(TRAIN)
    tree: dict[str, Any] = {"inputs": {"model": "oracle", "data": str(tmp_path / "data")}, "suite": ["gsm8k"]}
    section: dict[str, Any] = {"few_shot": 2, "other_data": True, "examples": {"gsm8k": "train.jsonl"}}
    servicer = Scripted(lambda request: "答案是5")
    with serving(servicer) as port:
        here = home(port)
        report = json.loads((here.evaluate(**tree, evaluate=section).path / "report.json").read_text())
        with pytest.raises(InputError, match=r"evaluate.examples.gsm8k: train.jsonl has 3 examples, .*few_shot is 4"):
            here.evaluate(**tree, evaluate=section | {"few_shot": 4})
        with pytest.raises(InputError, match=r"evaluate.examples.gsm8k: no.jsonl is not there"):
            here.evaluate(**tree, evaluate=section | {"examples": {"gsm8k": "no.jsonl"}})
        with pytest.raises(InputError, match=r"evaluate.examples.mathqa.*gsm8k"):
            here.evaluate(**tree, evaluate=section | {"examples": {"mathqa": "train.jsonl"}})
    first, second = (
        next(request.prompt for request in servicer.requests if request.prompt.endswith(f"{question}<sep>"))
        for question in ("一共多少？", "三减一？")
    )
    instruction = "详细分析并求解以下数学问题。\n"
    steps = f"{instruction}Two and two?\n2+2 = 4\n答案是4。\n\n"
    short = f"{instruction}十加十？\n答案是20。\n\n"
    assert first in {f"{one}{other}{instruction}一共多少？<sep>" for one, other in ((steps, short), (short, steps))}
    assert second.count("答案是") == 2
    found = report["suite"]["gsm8k"]
    assert found["malformed"].startswith("1 malformed rows left out: train.jsonl:3: expected question[SEP]answer, or")
    assert "train.jsonl" in report["settings"]["data"]["gsm8k"]


@needs_data
def test_every_problem_of_the_published_training_part_is_a_worked_example() -> None:
    task = all_tasks()["gsm8k_en"]
    found = with_examples(read_task(task, str(DATA)), task, str(DATA), "gsm8k/train.jsonl", 8)
    assert (len(found.examples), found.malformed) == (7473, ())
    assert not any("<<" in task.example(item, Rules()) for item in found.examples)


@needs_data
def test_other_versions_and_malformed_rows_are_named(home: Callable[[int], EvaluatorHome], tmp_path: Path) -> None:
    own = tmp_path / "data/yuan-datasets/GSM8K"
    own.mkdir(parents=True)
    lines = (DATA / "yuan-datasets/GSM8K/gsm8k_Cn.txt").read_text().splitlines()[:6]
    lines[1] = "a question without an answer"
    lines[4] = "多少？[SEP]many"
    (own / "gsm8k_Cn.txt").write_text("\n".join(lines) + "\n")
    tree: dict[str, Any] = {"inputs": {"model": "oracle", "data": str(tmp_path / "data")}, "suite": ["gsm8k"]}
    with serving(Scripted(lambda request: "42")) as port:
        here = home(port)
        with pytest.raises(
            InputError, match=r"gsm8k_Cn.txt is another version .*its sha256 is [0-9a-f]{64}, expected c055"
        ):
            here.evaluate(**tree)
        with pytest.raises(
            InputError, match=r"has no yuan-datasets/AGIEval-Math/mathqa.txt, which mathqa reads \(sha256"
        ):
            here.evaluate(**{**tree, "suite": ["mathqa"]})
        outcome = here.evaluate(**tree, evaluate={"other_data": True})
    report = json.loads((outcome.path / "report.json").read_text())["suite"]["gsm8k"]
    assert report["items"] == 4
    assert report["malformed"] == (
        "2 malformed rows left out: yuan-datasets/GSM8K/gsm8k_Cn.txt:2: expected question[SEP]answer; "
        "yuan-datasets/GSM8K/gsm8k_Cn.txt:5: the answer 'many' is no number"
    )
    assert "2 malformed rows left out" in notes(here)


@needs_data
def test_scoring_ten_thousand_answers_is_work_of_seconds() -> None:
    """Counted, not timed: no comparison of formulas is made where plain numbers decide."""
    from yuan_evaluator.answers import equality, latex

    task = all_tasks()["gsm8k"]
    made: list[str] = []
    parse = latex.parse
    latex.parse = lambda text: made.append(text) or parse(text)
    try:
        for item in read_task(task, str(DATA)).items:
            equality.equal("1,234", item.gold)
    finally:
        latex.parse = parse
    assert not made


def test_a_service_that_stays_away_ends_the_job_with_its_reason() -> None:
    from yuan_evaluator.asking import Ask, Sampling
    from yuan_evaluator.generating import Telling, generate_all
    from yuan_rpc import Connection

    with pytest.raises(WorkFailed, match=r"away for 0 s: nothing answers at 127\.0\.0\.1:1"):
        generate_all(
            lambda: Connection("inference", "127.0.0.1", 1),
            "m",
            [Ask("a", Sampling(3))],
            Telling(lambda ask, reply: None),
            in_flight=2,
            patience=0.2,
        )
