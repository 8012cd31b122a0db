"""What is kept and what is not: versions, what something else needs, run folders, what killed attempts left."""

from datetime import timedelta
from pathlib import Path

import pytest
from queue_toys import take, tokenizer, worker
from toy_home import Toys, write_result

from yuan_jobs.claims import describe
from yuan_jobs.deployments import deploy
from yuan_jobs.garbage import Garbage, collect_garbage
from yuan_jobs.registry import now
from yuan_jobs.submission import submit
from yuan_manifest.schema import RetentionSection


def make(toys: Toys, seed: int = 1, name: str = "demo") -> str:
    done = toys.execute("tokenizer.yaml", write_result, f"tokenizer.seed={seed}", f"outputs.tokenizer={name}")
    assert done.artifact is not None
    return done.artifact.reference


def collect(toys: Toys, *, versions: int = 1, days: float = 30, dry_run: bool = False, later: float = 0) -> Garbage:
    store = toys.store()
    try:
        return collect_garbage(
            store,
            toys.opened_home(),
            RetentionSection(artifact_versions=versions, run_days=days),
            dry_run=dry_run,
            moment=now() + timedelta(days=later),
        )
    finally:
        store.registry.close()


def names(garbage: Garbage) -> list[str]:
    return sorted(f"{one.kind}/{one.name}@{one.version}" for one in garbage.artifacts)


def there(toys: Toys) -> list[str]:
    store = toys.store()
    try:
        return [f"{one.kind}/{one.name}@{one.version}" for one in store.registry.artifacts()]
    finally:
        store.registry.close()


def test_old_versions_go_and_a_dry_run_changes_nothing(toys: Toys) -> None:
    for seed in (1, 2, 3):
        make(toys, seed)
    make(toys, 9, name="other")
    folders = sorted((toys.home / "store").rglob("artifact.json"))
    expected = ["tokenizer/demo@1", "tokenizer/demo@2"]
    assert names(collect(toys, dry_run=True)) == expected
    assert sorted((toys.home / "store").rglob("artifact.json")) == folders
    assert names(collect(toys)) == expected
    assert there(toys) == ["tokenizer/demo@3", "tokenizer/other@1"]
    assert len(list((toys.home / "store").rglob("artifact.json"))) == 2
    assert collect(toys) == Garbage()


def test_what_a_kept_artifact_was_made_from_is_kept(toys: Toys) -> None:
    make(toys, 1)
    toys.execute("tokenize.yaml", write_result)
    make(toys, 2)
    make(toys, 3)
    assert names(collect(toys)) == ["tokenizer/demo@2"]
    assert there(toys) == ["dataset/demo@1", "tokenizer/demo@1", "tokenizer/demo@3"]


def test_what_is_deployed_and_what_a_waiting_job_takes_are_kept(toys: Toys) -> None:
    for seed in (1, 2, 3, 4, 5):
        make(toys, seed)
    store = toys.store()
    deploy(store.registry, "served", "tokenizer/demo@2", {"adapters": {"answers": "tokenizer/demo@4"}})
    claim = take(store.registry, submit(store.registry, tokenizer("user", output="made"))[0].id, worker(store.registry))
    describe(store.registry, claim, "i" * 64, {"tokenizer": "tokenizer/demo@3"})
    store.registry.close()
    assert names(collect(toys)) == ["tokenizer/demo@1"]


def test_a_job_whose_artifact_was_collected_is_done_anew(toys: Toys) -> None:
    make(toys, 1)
    make(toys, 2)
    collect(toys)
    again = toys.execute("tokenizer.yaml", write_result, "tokenizer.seed=1", "outputs.tokenizer=demo")
    assert not again.reused
    assert again.artifact is not None
    assert again.artifact.version == 3


def test_run_folders_of_jobs_that_ended_long_ago_go(toys: Toys) -> None:
    make(toys)
    (run,) = (toys.home / "runs").iterdir()
    (run / "state").write_text("of the last step")
    assert collect(toys, days=30, later=29).runs == []
    found = collect(toys, days=30, later=31)
    assert [one.job_id for one in found.runs] == [run.name]
    assert found.runs[0].size_bytes == len("of the last step")
    assert not run.exists()


def test_what_a_killed_attempt_left_goes_but_not_what_a_running_one_fills(toys: Toys) -> None:
    store = toys.store()
    registry = store.registry
    claim = take(registry, submit(registry, tokenizer("filling", output="made"))[0].id, worker(registry))
    filled = store.begin("tokenizer", "made", claim)
    registry.close()
    orphan = toys.home / "store/tokenizer/made/gone-1kj4/attempt-1"
    orphan.mkdir(parents=True)
    (orphan / "half").write_text("x")
    assert collect(toys, dry_run=True).leftovers == ["tokenizer/made/gone-1kj4/attempt-1"]
    collect(toys)
    assert not orphan.exists()
    assert filled.exists()


def test_yuan_gc_says_what_it_does(toys: Toys) -> None:
    make(toys, 1)
    make(toys, 2)
    dry = toys.yuan("gc", "--dry-run", "--keep", "1")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "tokenizer/demo@1" in dry.stdout
    assert "would be removed" in dry.stdout
    assert there(toys) == ["tokenizer/demo@1", "tokenizer/demo@2"]
    assert "removed" in toys.yuan("gc", "--keep", "1").stdout
    assert there(toys) == ["tokenizer/demo@2"]
    assert toys.yuan("gc", "--keep", "1").stdout == "there is nothing that is not kept\n"
    wrong = toys.yuan("gc", "--keep", "0")
    assert (wrong.returncode, wrong.stderr) == (2, "yuan gc: --keep: expected at least 1, found 0\n")


def test_a_lineage_is_a_tree_and_a_picture(toys: Toys, tmp_path: Path) -> None:
    make(toys, 1)
    toys.execute("tokenize.yaml", write_result)
    shown = toys.yuan("lineage", "dataset/demo", "--picture", "lineage.svg")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("dataset/demo@1   ")
    assert lines[1:] == ["└── tokenizer: tokenizer/demo@1", "picture: lineage.svg"]
    drawn = (toys.folder / "lineage.svg").read_text()
    assert drawn.count("tokenizer/demo@1") >= 1
    below = toys.yuan("lineage", "tokenizer/demo").stdout.splitlines()
    assert below[1:] == ["used by", "└── dataset/demo@1"]
    wrong = toys.yuan("lineage", "dataset/demo", "--picture", "lineage.gif")
    assert wrong.returncode == 2
    assert ".png, .svg, .pdf" in wrong.stderr
    assert toys.yuan("lineage", "dataset/nobody").returncode == 2


def test_a_folder_that_cannot_be_removed_is_found_again(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    make(toys, 1)
    make(toys, 2)
    from yuan_jobs.storage import LocalStorage

    def refuses(self: LocalStorage, relative: str) -> None:
        raise OSError("busy")

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "remove", refuses)
        collect(toys)
    assert there(toys) == ["tokenizer/demo@2"]
    assert len(collect(toys).leftovers) == 1
    assert collect(toys) == Garbage()
