"""A gather job: accepted requests become the same files whenever they are gathered; what is asked is never learned."""

import json
from pathlib import Path

import pytest

from yuan_data.gather import HELD_OUT, LEARNED, REQUESTS, TRAINING, gather_work
from yuan_events import Message, RecordingSink
from yuan_jobs import WorkContext
from yuan_jobs.cycles import CycleBook
from yuan_jobs.models import JobRow
from yuan_jobs.records import Claim
from yuan_jobs.registry import Registry, now
from yuan_jobs.states import JobState
from yuan_jobs.teaching import request_of_plain
from yuan_jobs.teaching_registry import file_request, review_request
from yuan_manifest import ManifestError, Topology, job_of_plain
from yuan_manifest.schema import GatherJob


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    opened = Registry.open(f"sqlite:///{tmp_path / 'registry.db'}")
    with opened.database.writing() as session:
        session.add(
            JobRow(
                id="gather-1", kind="gather", name="gather", recipe={}, inputs={}, topology={},
                state=JobState.RUNNING, attempt=1, created=now(),
            )
        )  # fmt: skip
    return opened


def accept(registry: Registry, scenario: str, *examples: tuple[str, str]) -> str:
    plain = [{"input": one, "output": other} for one, other in examples]
    tree = {"scenario": scenario, "behaviour": "answer", "author": "Ada", "examples": plain}
    request = file_request(registry, request_of_plain(tree), "ada")
    return review_request(registry, request.id, accept=True, why="yes", who="bo", revision=1).id


def gather(registry: Registry, output: Path, **section: object) -> tuple[dict[str, str], list[str], str]:
    """Returns what was written, what was said, and why there was nothing to do."""
    output.mkdir()
    job = job_of_plain(
        {"version": 1, "kind": "gather", "name": "gather", "gather": section, "outputs": {"requests": "asked"}}
    )
    assert isinstance(job, GatherJob)
    sink = RecordingSink()
    book = CycleBook(registry, Claim("gather-1", 1, None))
    context = WorkContext(job, Topology(), {}, output, output, sink, job_id="gather-1", cycle=book)
    result = gather_work(context)
    said = [event.text for event in sink.events if isinstance(event, Message)]
    return {file.name: file.read_text(encoding="utf-8") for file in output.iterdir()}, said, result.nothing


def test_a_second_attempt_writes_the_same_bytes(registry: Registry, tmp_path: Path) -> None:
    for scenario in ("shout", "count"):
        accept(registry, scenario, *((f"{scenario} {number}", str(number)) for number in range(8)))
    first, said, _ = gather(registry, tmp_path / "first")
    assert said == ["2 requests: 12 examples are learned, 4 are held out"]
    assert gather(registry, tmp_path / "second")[0] == first
    other = gather(registry, tmp_path / "other", seed=7, held_out=0.5)[0]
    assert other[HELD_OUT].count("\n") == 8
    learned, asked = ([json.loads(line)["input"] for line in first[name].splitlines()] for name in (LEARNED, HELD_OUT))
    assert not set(learned) & set(asked)
    assert [line.partition("[SEP]")[0] for line in first[TRAINING].splitlines()] == learned


def test_lines_of_an_example_are_marked_as_the_text_of_fine_tuning_marks_them(
    registry: Registry, tmp_path: Path
) -> None:
    accept(registry, "code", ("write f", "def f():\n    pass"), ("write g", "def g():\n    pass"))
    written = gather(registry, tmp_path / "out")[0]
    assert written[TRAINING] in ("write f[SEP]def f():<n>    pass\n", "write g[SEP]def g():<n>    pass\n")
    assert "def g():\n    pass" in json.loads(written[REQUESTS])["requests"][0]["examples"][1]["output"]


def test_an_input_of_two_requests_is_taken_once_so_that_none_is_both_learned_and_asked(
    registry: Registry, tmp_path: Path
) -> None:
    first = accept(registry, "one", ("a", "1"), ("b", "2"), ("c", "3"))
    second = accept(registry, "two", ("b", "2"), ("c", "other"), ("d", "4"))
    written, said, _ = gather(registry, tmp_path / "out")
    assert f"{second}: examples[0] is left out: {first} has its input already" in said
    assert f"{second}: examples[1] is left out: {first} has its input already, with another output" in said
    inputs = [json.loads(line)["input"] for name in (LEARNED, HELD_OUT) for line in written[name].splitlines()]
    assert sorted(inputs) == ["a", "b", "c", "d"]


def test_an_empty_month_makes_nothing_and_says_so(registry: Registry, tmp_path: Path) -> None:
    written, _, nothing = gather(registry, tmp_path / "out")
    assert (written, nothing) == ({}, "nothing accepted: no teaching request waits to be learned")


def test_requests_stand_in_the_place_of_text_and_not_beside_it() -> None:
    tree = {
        "version": 1, "kind": "tokenize", "name": "cut", "inputs": {"tokenizer": "demo", "requests": "asked"},
        "outputs": {"dataset": "asked"},
    }  # fmt: skip
    job_of_plain(tree)
    with pytest.raises(ManifestError, match=r"inputs.text: expected nothing beside inputs.requests"):
        job_of_plain(tree | {"inputs": {"tokenizer": "demo", "requests": "asked", "text": ["a.txt"]}})
    with pytest.raises(ManifestError, match=r"inputs.text: is empty; expected at least one item"):
        job_of_plain(tree | {"inputs": {"tokenizer": "demo"}})
