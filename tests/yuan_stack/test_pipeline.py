"""A pipeline's steps run in the order of their needs, each in a process of its own, and none before all are checked."""

from pathlib import Path

import pytest
from tests.machine import wait_until
from toy_home import Toys


def table_of(stdout: str) -> dict[str, list[str]]:
    """Returns the rows of the table at the end, by step."""
    lines = stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:2] == ["step", "state"])
    return {line.split()[0]: line.split()[1:] for line in lines[start + 1 :]}


def test_steps_run_in_the_order_of_their_needs_whatever_the_order_in_the_file(toys: Toys) -> None:
    ended = toys.yuan("run", "pipeline.yaml")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert toys.calls == ["first 1", "second 1"]
    assert "[1/2] train" in ended.stdout
    table = table_of(ended.stdout)
    assert (table["train"][0], table["train"][-1]) == ("done", "tokenizer/demo@1")
    assert (table["cut"][0], table["cut"][-1]) == ("done", "dataset/demo@1")
    assert list(table) == ["train", "cut"]


def test_a_second_run_finds_everything_done(toys: Toys) -> None:
    toys.yuan("run", "pipeline.yaml")
    ended = toys.yuan("run", "pipeline.yaml")
    assert ended.returncode == 0
    assert toys.calls == ["first 1", "second 1"]
    assert table_of(ended.stdout)["cut"][:2] == ["done", "before"]


@pytest.mark.slow
def test_force_does_every_step_anew(toys: Toys) -> None:
    toys.yuan("run", "pipeline.yaml")
    ended = toys.yuan("run", "pipeline.yaml", "--force")
    assert table_of(ended.stdout)["cut"][-1] == "dataset/demo@2"
    assert toys.store().open_artifact("dataset/demo").metadata["inputs"]["tokenizer"]["artifact"] == "tokenizer/demo@2"


@pytest.mark.parametrize(("how", "code", "line"), [("fail", 1, "it broke"), ("refuse", 2, "it broke")])
def test_a_step_that_fails_ends_the_pipeline_with_its_code_and_one_line(
    toys: Toys, how: str, code: int, line: str
) -> None:
    (toys.control / f"first.{how}").write_text(line)
    ended = toys.yuan("run", "pipeline.yaml")
    assert ended.returncode == code
    assert ended.stderr.count("\n") == 1
    assert line in ended.stderr
    table = table_of(ended.stdout)
    assert table["train"][0] == "failed"
    assert table["cut"][:2] == ["not", "started"]
    assert toys.calls == ["first 1"]


def test_a_pipeline_that_failed_goes_on_with_the_step_that_did(toys: Toys) -> None:
    (toys.control / "second.fail").write_text("not yet")
    assert toys.yuan("run", "pipeline.yaml").returncode == 1
    (toys.control / "second.fail").unlink()
    assert toys.yuan("run", "pipeline.yaml").returncode == 0
    assert toys.calls == ["first 1", "second 1", "second 2"]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (("tokenize.yaml", "tokenize:\n  worker: 1\n"), "tokenize.yaml:"),
        (
            ("tokenize.yaml", "# nothing\n", "inputs: {tokenizer: demo@3"),
            "step cut: artifact tokenizer/demo@3 does not exist",
        ),
        (
            ("pipeline.yaml", "# nothing\n", "needs: []"),
            "step cut: inputs.tokenizer demo is made by step train: add it",
        ),
        (("pipeline.yaml", "# nothing\n", "needs: [trian]"), "trian"),
        (("pipeline.yaml", "# nothing\n", "needs: [cut]"), "cut"),
        (("pipeline.yaml", "  more: {manifest: missing.yaml}\n"), "missing.yaml"),
        (("pipeline.yaml", "  more: {manifest: pipeline.yaml}\n"), "pipeline.yaml"),
        (("pipeline.yaml", "  more: {manifest: generate.yaml}\n"), "step more: artifact model/demo does not exist"),
    ],
)
def test_everything_is_checked_before_the_first_step_starts(toys: Toys, edit: tuple[str, ...], line: str) -> None:
    file = toys.folder / edit[0]
    text = file.read_text() + edit[1]
    if len(edit) > 2:
        text = text.replace("inputs: {tokenizer: demo", edit[2]).replace("needs: [train]", edit[2])
    file.write_text(text)
    ended = toys.yuan("run", "pipeline.yaml")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert line in ended.stderr
    assert toys.calls == []


def test_an_artifact_that_exists_may_be_taken_from_outside_the_pipeline(toys: Toys) -> None:
    toys.yuan("run", "tokenizer.yaml")
    (toys.folder / "pipeline.yaml").write_text(
        "version: 1\nkind: pipeline\nname: one\nsteps:\n  cut: {manifest: tokenize.yaml}\n"
    )
    assert toys.yuan("run", "pipeline.yaml").returncode == 0


def test_what_is_edited_meanwhile_changes_nothing(toys: Toys) -> None:
    toys.hold("first")
    process = toys.start("yuan_cli.main", "run", "pipeline.yaml")
    toys.await_work("first")
    (toys.folder / "tokenize.yaml").write_text("this is no manifest any more")
    toys.release("first")
    assert process.wait(timeout=60) == 0
    assert toys.calls == ["first 1", "second 1"]


def test_a_step_is_the_same_job_inside_and_outside_of_a_pipeline(toys: Toys) -> None:
    toys.yuan("run", "pipeline.yaml")
    assert "done before" in toys.yuan("run", "tokenize.yaml").stdout


def test_an_override_of_a_step_reaches_it(toys: Toys) -> None:
    ended = toys.yuan("run", "pipeline.yaml", "cut.outputs.dataset=other", "topology.nodes.devices=5")
    assert ended.returncode == 0
    record = toys.store().find("dataset/other")
    job = toys.store().registry.job(record.job_id)
    assert job is not None
    assert job.topology["nodes"]["devices"] == 5


@pytest.mark.slow
def test_overrides_of_the_cluster_reach_every_step(toys: Toys, tmp_path: Path) -> None:
    ended = toys.yuan("run", "pipeline.yaml", f"cluster.home={tmp_path / 'elsewhere'}")
    assert ended.returncode == 0
    assert not toys.home.exists()
    assert (tmp_path / "elsewhere" / "registry.db").exists()


@pytest.mark.slow
def test_nothing_is_left_in_the_scratch_folder(toys: Toys) -> None:
    toys.yuan("run", "pipeline.yaml")
    assert not (toys.home / "scratch").exists()
    toys.hold("first")
    process = toys.start("yuan_cli.main", "run", "pipeline.yaml", "--force")
    toys.await_work("first")
    process.kill()
    process.wait()
    toys.release("first")
    assert toys.yuan("run", "pipeline.yaml", "--force").returncode == 0
    assert not (toys.home / "scratch").exists()


def test_a_pipeline_goes_on_when_nobody_reads_its_output(toys: Toys) -> None:
    toys.hold("first")
    process = toys.start("yuan_cli.main", "run", "pipeline.yaml")
    toys.await_work("first")
    assert process.stdout is not None
    process.stdout.close()
    toys.release("first")
    assert process.wait(timeout=60) == 0
    wait_until(lambda: toys.calls == ["first 1", "second 1"])
