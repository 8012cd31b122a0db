"""Two jobs that write a dataset of the same name at the same time, each held in the midst of its text by a stage."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import User

pytestmark = pytest.mark.slow

SECONDS = 120

STAGE = f"""
import time
from pathlib import Path

class Meeting:
    def __init__(self, here: str, there: str) -> None:
        self._here, self._there = Path(here), Path(there)

    def clean(self, text: str) -> str:
        self._here.touch()
        late = time.monotonic() + {SECONDS}
        while not self._there.exists():
            if time.monotonic() > late:
                raise TimeoutError(f"nobody made {{self._there}}")
            time.sleep(0.05)
        return text
"""
TOKENIZE = """
version: 1
kind: tokenize
name: same-tokenize
inputs: {{tokenizer: small, text: [{text}.txt]}}
tokenize: {{shard_mib: 1, workers: 1}}
cleaning: [{{stage: "meeting:Meeting", here: {here}, there: {there}}}]
outputs: {{dataset: same}}
"""
DOCUMENTS = (("one", 300), ("two", 500))


@pytest.fixture
def people(user: User) -> User:
    """A user with a tokenizer, two texts, and a stage that waits for a file."""
    user.environment["PYTHONPATH"] = str(user.folder)
    (user.folder / "meeting.py").write_text(STAGE)
    write_texts(user, 1)
    user.does("run", "tokenizer.yaml")
    return user


def write_texts(user: User, times: int) -> None:
    """Writes both texts; of 150 times so many words they have more than a shard each."""
    for name, documents in DOCUMENTS:
        lines = (" ".join([f"document {number} of text {name}"] * times) for number in range(documents))
        (user.folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


def write_manifest(user: User, text: str, here: str, there: str) -> Path:
    """Writes a manifest whose job makes a file once it is in the midst of its text, and there waits for another."""
    path = user.folder / f"{text}.yaml"
    path.write_text(TOKENIZE.format(text=text, here=user.folder / here, there=user.folder / there))
    return path


def files_of(user: User, reference: str) -> tuple[list[tuple[str, bytes]], int]:
    """Returns a dataset's `.bin` and `.idx` files and the number of its documents."""
    folder = Path(json.loads(user.does("show", reference, "--json"))["path"])
    documents = json.loads((folder / "statistics.json").read_text())["documents"]
    return [
        (path.name, path.read_bytes()) for path in sorted(folder.glob("part-*.*")) if path.suffix != ".npy"
    ], documents


def check_both_are_whole(user: User, shards: int = 1) -> None:
    """Compares both versions with what each text comes to when nobody else is about."""
    for text in ("one", "two"):
        user.does("run", f"{text}.yaml", f"outputs.dataset=alone-{text}")
    alone = [files_of(user, f"dataset/alone-{text}") for text in ("one", "two")]
    assert [documents for _, documents in alone] == [300, 500]
    assert [sum(name.endswith(".bin") for name, _ in files) for files, _ in alone] == [shards, shards]
    assert sorted(files_of(user, f"dataset/same@{version}") for version in (1, 2)) == sorted(alone)
    made = json.loads(user.does("artifacts", "--json"))
    assert sorted(one["version"] for one in made if one["name"] == "same") == [1, 2]


def wait_for(path: Path) -> None:
    late = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < late, f"no {path.name}"
        time.sleep(0.05)


def test_in_the_foreground_the_second_is_refused_in_a_line_and_the_first_goes_on(people: User) -> None:
    first, second = write_manifest(people, "one", "at-work", "go"), write_manifest(people, "two", "second", "go")
    running = people.starts("run", first.name)
    try:
        wait_for(people.folder / "at-work")
        refused = people.is_refused("run", second.name)
        assert "is busy: same-tokenize" in refused
        assert "wait for its end, or use another home" in refused
        assert not (people.folder / "second").exists()
    finally:
        (people.folder / "go").touch()
        output, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, output + errors
    assert "dataset/same@1" in output
    assert "dataset/same@2" in people.does("run", second.name)
    check_both_are_whole(people)


@pytest.fixture
def stack(people: User) -> Iterator[list[str]]:
    """The arguments that name a stack of the user's with four data workers; it is up, and is ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = people.folder / "cluster.yaml"
    others = ", ".join(f"{name}: null" for name in ("trainer", "converter", "evaluator", "inference", "gateway"))
    file.write_text(
        f"version: 1\ncluster:\n  home: {people.home}\n  services: {{data: {{port: {port}, workers: 4}}, {others}}}\n"
    )
    try:
        people.does("-f", str(file), "up", "--detach")
        yield ["-f", str(file)]
    finally:
        people.does("-f", str(file), "down")


@pytest.mark.parametrize("shards", [1, 2])
def test_in_a_stack_both_are_kept_as_versions_and_nothing_is_mixed(people: User, stack: list[str], shards: int) -> None:
    if shards > 1:
        write_texts(people, 150)
    # Neither ends before both are in the midst of their texts; each shard is a worker's.
    manifests = [write_manifest(people, "one", "one-there", "two-there")]
    manifests += [write_manifest(people, "two", "two-there", "one-there")]
    running = [people.starts(*stack, "submit", manifest.name, "--watch") for manifest in manifests]
    try:
        ended = [(*process.communicate(timeout=2 * SECONDS), process.returncode) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [code for *_, code in ended] == [0, 0], ended
    told = sorted(version for output, *_ in ended for version in ("same@1", "same@2") if f"dataset/{version}" in output)
    assert told == ["same@1", "same@2"], ended
    people.does(*stack, "down")
    check_both_are_whole(people, shards)
