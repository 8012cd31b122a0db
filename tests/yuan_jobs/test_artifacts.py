"""A reader sees a whole artifact or none, and what is published stays as it is."""

import json
import os
from pathlib import Path

import pytest
from toy_home import Toys, write_result

from yuan_events import InputError, WorkFailed
from yuan_jobs import WorkContext, WorkResult
from yuan_jobs.artifacts import ArtifactDamaged, ArtifactStore
from yuan_jobs.home import Home
from yuan_jobs.references import ArtifactNotFound
from yuan_jobs.registry import Registry
from yuan_jobs.storage import open_storage


def test_an_artifact_has_its_files_hashes_recipe_inputs_and_summary(toys: Toys) -> None:
    tokenizer = toys.execute("tokenizer.yaml", write_result).artifact
    assert tokenizer is not None
    made = toys.execute("tokenize.yaml", write_result, fingerprint=lambda job: {"text": "t" * 64}).artifact
    assert made is not None
    metadata = json.loads((made.path / "artifact.json").read_text())
    assert made.metadata == metadata
    assert metadata["schema_version"] == 1
    assert metadata["inputs"] == {
        "tokenizer": {"artifact": "tokenizer/demo@1", "digest": tokenizer.digest},
        "text": {"digest": "t" * 64},
    }
    assert metadata["recipe"]["outputs"] == {"dataset": "demo"}
    assert "topology" not in metadata["recipe"]
    assert [file["path"] for file in metadata["files"]] == ["result.txt"]
    assert [file["size_bytes"] for file in metadata["files"]] == [len("second")]
    assert made.summary == {"words": 1}


def test_an_artifact_is_invisible_until_it_is_complete(toys: Toys) -> None:
    def look(context: WorkContext) -> WorkResult:
        result = write_result(context)
        assert toys.store().registry.artifacts() == []
        with pytest.raises(ArtifactNotFound):
            toys.store().open_artifact("tokenizer/demo")
        return result

    toys.execute("tokenizer.yaml", look)
    assert toys.store().open_artifact("demo").reference == "tokenizer/demo@1"


def test_published_files_are_read_only(toys: Toys) -> None:
    path = toys.execute("tokenizer.yaml", write_result).path
    assert {file.stat().st_mode & 0o222 for file in path.iterdir()} == {0}


def test_a_new_version_leaves_the_old_one_as_it_is(toys: Toys) -> None:
    toys.execute("tokenizer.yaml", write_result)
    old = toys.store().open_artifact("tokenizer/demo@1")
    toys.execute("tokenizer.yaml", write_result, "name=changed")
    new = toys.store().open_artifact("tokenizer/demo@latest")
    assert (old.version, new.version) == (1, 2)
    assert (old.path / "result.txt").read_text() == "first"
    assert (new.path / "result.txt").read_text() == "changed"


def test_a_changed_byte_is_found_by_verifying(toys: Toys) -> None:
    artifact = toys.execute("tokenizer.yaml", write_result).artifact
    assert artifact is not None
    toys.store().verify(artifact)
    (artifact.path / "result.txt").chmod(0o644)
    (artifact.path / "result.txt").write_text("fIrst")
    opened = toys.store().open_artifact("tokenizer/demo")
    with pytest.raises(ArtifactDamaged, match=r"tokenizer/demo@1: result\.txt is not what was published"):
        toys.store().verify(opened)


@pytest.mark.parametrize("damage", ["missing file", "longer file", "missing folder", "no json", "other json"])
def test_a_damaged_artifact_is_not_opened(toys: Toys, damage: str) -> None:
    artifact = toys.execute("tokenizer.yaml", write_result).artifact
    assert artifact is not None
    for file in artifact.path.iterdir():
        file.chmod(0o644)
    match damage:
        case "missing file":
            (artifact.path / "result.txt").unlink()
        case "longer file":
            (artifact.path / "result.txt").write_text("longer than it was")
        case "missing folder":
            artifact.path.rename(artifact.path.with_name("elsewhere"))
        case "no json":
            (artifact.path / "artifact.json").write_text("{")
        case _:
            text = (artifact.path / "artifact.json").read_text()
            (artifact.path / "artifact.json").write_text(text.replace('size_bytes": 5', 'size_bytes": 6'))
    with pytest.raises(ArtifactDamaged, match="artifact tokenizer/demo@1: ") as error:
        toys.store().open_artifact("tokenizer/demo")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "problem"),
    [("none", "without having made a file"), ("link", "only plain files"), ("own", "the store's own")],
)
def test_what_cannot_be_published_fails_and_leaves_nothing(toys: Toys, files: str, problem: str) -> None:
    def work(context: WorkContext) -> WorkResult:
        if files == "link":
            (context.output / "link").symlink_to("/etc/hostname")
        if files == "own":
            (context.output / "artifact.json").write_text("{}")
        return WorkResult()

    with pytest.raises(WorkFailed, match=problem):
        toys.execute("tokenizer.yaml", work)
    assert toys.store().registry.artifacts() == []
    assert list((toys.home / "store").rglob("*")) == []


def test_a_name_of_several_kinds_needs_its_kind(toys: Toys) -> None:
    toys.execute("tokenizer.yaml", write_result)
    toys.execute("tokenize.yaml", write_result)
    with pytest.raises(InputError, match="say dataset/demo or tokenizer/demo"):
        toys.store().open_artifact("demo")
    assert toys.store().open_artifact("demo", "dataset").kind == "dataset"


@pytest.fixture
def remote(tmp_path: Path) -> Home:
    """A home whose store is reached through fsspec (in memory, as S3 would be)."""
    return Home(
        tmp_path / "home", f"sqlite:///{tmp_path}/registry.db", f"memory://bucket-{os.getpid()}-{tmp_path.name}"
    )


def test_a_remote_store_gives_back_what_was_sealed_and_only_that(remote: Home) -> None:
    storage = open_storage(remote)
    folder = storage.workspace("model/demo/job/attempt-1")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.bin").write_bytes(b"abc")
    (folder / "artifact.json").write_text("{}")
    assert not list(open_storage(remote).children("model/demo/other"))
    storage.seal("model/demo/job/attempt-1", ["sub/a.bin", "artifact.json"])
    elsewhere = open_storage(Home(remote.path / "other-machine", remote.registry_url, remote.store))
    fetched = elsewhere.fetch("model/demo/job/attempt-1", ["sub/a.bin"])
    assert (fetched / "sub" / "a.bin").read_bytes() == b"abc"
    assert not (fetched / "artifact.json").exists()
    assert elsewhere.children("model/demo/job") == ["attempt-1"]
    elsewhere.remove("model/demo/job/attempt-1")
    assert storage.children("model/demo/job") == []
    with pytest.raises(FileNotFoundError):
        elsewhere.fetch("model/demo/job/attempt-1", ["sub/a.bin"])


def test_jobs_publish_to_a_remote_store_and_read_from_it(toys: Toys) -> None:
    store = f"memory://whole-{os.getpid()}-{toys.folder.name}"
    toys.execute("tokenizer.yaml", write_result, store=store)

    def read(context: WorkContext) -> WorkResult:
        text = (context.inputs["tokenizer"].path / "result.txt").read_text()
        (context.output / "copy.txt").write_text(text)
        return WorkResult()

    toys.execute("tokenize.yaml", read, store=store)
    assert not (toys.home / "store").exists()
    other_machine = Home(toys.folder / "cache-of-another", toys.opened_home().registry_url, store)
    found = ArtifactStore(open_storage(other_machine), Registry.open(other_machine.registry_url))
    artifact = found.open_artifact("dataset/demo")
    found.verify(artifact)
    assert (artifact.path / "copy.txt").read_text() == "first"


def test_a_store_that_needs_what_is_not_installed_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="store nonsense://x: nonsense:// cannot be used here"):
        open_storage(Home(tmp_path, "sqlite:///x", "nonsense://x"))
