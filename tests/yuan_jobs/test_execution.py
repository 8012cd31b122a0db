"""A job is done once, goes on where it stopped, and leaves a clear state however it ends."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from toy_home import Toys, write_result

from yuan_events import InputError, Interrupted, Message, Metrics, RecordingSink, WorkFailed
from yuan_jobs import WorkContext, WorkResult
from yuan_jobs.attempt import tell_registry
from yuan_jobs.journal import read_journal
from yuan_jobs.placing import place
from yuan_jobs.records import Claim
from yuan_jobs.references import ArtifactNotFound
from yuan_jobs.registry import StaleAttemptError
from yuan_jobs.states import JobState


def fail(context: WorkContext) -> WorkResult:
    (context.output / "half").write_text("half")
    raise ValueError("two\nlines")


def state_of(toys: Toys, job_id: str) -> JobState:
    job = toys.store().registry.job(job_id)
    assert job is not None
    return job.state


def only_job(toys: Toys) -> str:
    (folder,) = (toys.home / "runs").iterdir()
    return folder.name


def test_an_identical_job_is_not_done_again(toys: Toys) -> None:
    first = toys.execute("tokenizer.yaml", write_result)
    second = toys.execute("tokenizer.yaml", fail)
    assert (first.reused, second.reused) == (False, True)
    assert (second.job_id, second.artifact, second.summary) == (first.job_id, first.artifact, first.summary)


def test_topology_is_no_part_of_what_a_job_is(toys: Toys) -> None:
    toys.execute("tokenizer.yaml", write_result)
    assert toys.execute("tokenizer.yaml", fail, "topology.nodes.devices=7").reused


def test_a_changed_recipe_or_changed_text_is_another_job(toys: Toys) -> None:
    first = toys.execute("tokenizer.yaml", write_result, fingerprint=lambda job: {"text": "one"})
    changed = toys.execute("tokenizer.yaml", write_result, fingerprint=lambda job: {"text": "two"})
    other = toys.execute("tokenizer.yaml", write_result, "tokenizer.seed=1", fingerprint=lambda job: {"text": "one"})
    assert len({first.job_id, changed.job_id, other.job_id}) == 3


def test_a_new_version_of_an_input_makes_another_job(toys: Toys) -> None:
    toys.execute("tokenizer.yaml", write_result)
    assert not toys.execute("tokenize.yaml", write_result).reused
    toys.execute("tokenizer.yaml", write_result, force=True)
    assert not toys.execute("tokenize.yaml", write_result).reused
    assert toys.execute("tokenize.yaml", write_result, "inputs.tokenizer=demo@2").reused is False
    assert toys.execute("tokenize.yaml", write_result).reused


def test_force_makes_a_new_job_and_a_new_version(toys: Toys) -> None:
    first = toys.execute("tokenizer.yaml", write_result)
    second = toys.execute("tokenizer.yaml", write_result, force=True)
    assert second.job_id != first.job_id
    assert second.artifact is not None
    assert second.artifact.version == 2


def test_a_failed_job_says_why_and_leaves_no_output(toys: Toys) -> None:
    with pytest.raises(WorkFailed) as error:
        toys.execute("tokenizer.yaml", fail)
    assert str(error.value).startswith("first: ValueError: two lines (details: ")
    job_id = only_job(toys)
    job = toys.store().registry.job(job_id)
    assert job is not None
    assert (job.state, job.reason) == (JobState.FAILED, str(error.value))
    assert list((toys.home / "store").rglob("*")) == []
    details = Path(str(error.value).partition("details: ")[2].rstrip(")"))
    assert "Traceback" in details.read_text()
    assert details.parent == toys.home / "runs" / job_id / "attempt-1"


def test_a_failed_job_goes_on_in_the_same_run_folder_as_its_next_attempt(toys: Toys) -> None:
    def count(context: WorkContext) -> WorkResult:
        (context.run / "state").write_text("step 7")
        raise WorkFailed("the disk is on fire")

    def go_on(context: WorkContext) -> WorkResult:
        assert (context.run / "state").read_text() == "step 7"
        assert (context.attempt, context.job_id) == (2, only_job(toys))
        return write_result(context)

    with pytest.raises(WorkFailed, match="on fire"):
        toys.execute("tokenizer.yaml", count)
    sink = RecordingSink()
    outcome = toys.execute("tokenizer.yaml", go_on, sink=sink)
    assert outcome.attempt == 2
    expected = f"continues run {outcome.job_id}, which failed: the disk is on fire (attempt 2)"
    assert sink.events == [Message(expected)]


@pytest.mark.parametrize("end", [Interrupted("stopped after step 3"), KeyboardInterrupt()])
def test_an_interrupted_job_is_cancelled_and_goes_on_later(toys: Toys, end: BaseException) -> None:
    def stop(context: WorkContext) -> WorkResult:
        raise end

    with pytest.raises(Interrupted):
        toys.execute("tokenizer.yaml", stop)
    assert state_of(toys, only_job(toys)) == JobState.CANCELLED
    sink = RecordingSink()
    assert toys.execute("tokenizer.yaml", write_result, sink=sink).attempt == 2
    assert sink.events == [Message(f"continues run {only_job(toys)}, which was interrupted (attempt 2)")]


def test_an_interrupted_forced_job_is_the_one_that_goes_on(toys: Toys) -> None:
    def stop(context: WorkContext) -> WorkResult:
        raise Interrupted("x")

    first = toys.execute("tokenizer.yaml", write_result)
    with pytest.raises(Interrupted):
        toys.execute("tokenizer.yaml", stop, force=True)
    again = toys.execute("tokenizer.yaml", write_result)
    assert not again.reused
    assert again.job_id != first.job_id


def test_the_work_hears_that_it_is_to_stop(toys: Toys) -> None:
    def polite(context: WorkContext) -> WorkResult:
        context.stop_if_asked()
        raise AssertionError("was not asked")

    with pytest.raises(Interrupted, match="first: interrupted; run it again to go on"):
        toys.execute("tokenizer.yaml", polite, should_stop=iter([False, True]).__next__)


def test_a_full_disk_fails_the_job_in_one_line_and_publishes_nothing(toys: Toys) -> None:
    def full(context: WorkContext) -> WorkResult:
        (context.output / "big").write_bytes(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(context.output / "big"))

    with pytest.raises(WorkFailed, match=r"first: no space left on the disk \(.*big\); make room") as error:
        toys.execute("tokenizer.yaml", full)
    assert "\n" not in str(error.value)
    assert list((toys.home / "store").rglob("*")) == []
    assert toys.execute("tokenizer.yaml", write_result).attempt == 2


def test_a_disk_that_fills_up_before_publishing_loses_nothing_but_that(toys: Toys, small_disk: Path) -> None:
    toys.home = small_disk / "home"

    def fill(context: WorkContext) -> WorkResult:
        write_result(context)
        with suppress(OSError):
            (context.run / "fill").write_bytes(b"x" * 10**7)
        return WorkResult()

    with pytest.raises(WorkFailed, match="first: no space left on the disk"):
        toys.execute("tokenizer.yaml", fill)
    assert list((toys.home / "store").rglob("*")) == []
    assert toys.store().registry.artifacts() == []
    (toys.home / "runs" / only_job(toys) / "fill").unlink()
    assert toys.execute("tokenizer.yaml", write_result).attempt == 2


def test_a_store_that_cannot_be_written_fails_the_job_in_one_line(toys: Toys) -> None:
    toys.home.mkdir()
    (toys.home / "store").write_text("a file is in the way")
    with pytest.raises(WorkFailed, match="first: NotADirectoryError"):
        toys.execute("tokenizer.yaml", write_result)
    assert state_of(toys, only_job(toys)) == JobState.FAILED


def test_a_package_that_is_missing_is_named(toys: Toys) -> None:
    def lacking(context: WorkContext) -> WorkResult:
        import no_such_package_anywhere  # noqa: F401

        return WorkResult()

    with pytest.raises(WorkFailed, match="needs the Python package no_such_package_anywhere"):
        toys.execute("tokenizer.yaml", lacking)


def test_a_missing_input_is_found_before_anything_is_done(toys: Toys) -> None:
    with pytest.raises(ArtifactNotFound, match="artifact tokenizer/demo does not exist"):
        toys.execute("tokenize.yaml", write_result)
    assert list((toys.home / "runs").iterdir()) == []


def test_wrong_text_is_found_before_anything_is_done(toys: Toys) -> None:
    def no_text(job: object) -> dict[str, str]:
        raise InputError("inputs.text: nothing there")

    with pytest.raises(InputError, match="nothing there"):
        toys.execute("tokenizer.yaml", write_result, fingerprint=no_text)
    assert list((toys.home / "runs").iterdir()) == []


def test_events_are_kept_with_the_time(toys: Toys) -> None:
    events = [Message("hello"), Metrics(1, {"loss": 2.5})]

    def talk(context: WorkContext) -> WorkResult:
        for event in events:
            context.sink.emit(event)
        return write_result(context)

    job_id = toys.execute("tokenizer.yaml", talk).job_id
    kept = list(read_journal(toys.home / "runs" / job_id / "attempt-1" / "events.jsonl"))
    assert [event for _, event in kept] == events
    assert kept[0][0] <= kept[1][0]


def test_a_journal_that_was_cut_off_is_read_up_to_there(toys: Toys) -> None:
    def talk(context: WorkContext) -> WorkResult:
        context.sink.emit(Message("whole"))
        return write_result(context)

    journal = toys.home / "runs" / toys.execute("tokenizer.yaml", talk).job_id / "attempt-1" / "events.jsonl"
    journal.write_text(journal.read_text() + '{"at": "2026-01-01T00:00:0')
    assert [event for _, event in read_journal(journal)] == [Message("whole")]


def test_a_result_that_json_cannot_hold_is_kept_all_the_same(toys: Toys) -> None:
    def odd(context: WorkContext) -> WorkResult:
        write_result(context)
        return WorkResult({"loss": float("nan"), "where": Path("x")})

    assert toys.execute("tokenizer.yaml", odd).summary == {"loss": None, "where": "x"}


def test_a_finished_job_whose_artifact_was_deleted_is_done_again(toys: Toys) -> None:
    first = toys.execute("tokenizer.yaml", write_result)
    shutil.rmtree(first.path)
    sink = RecordingSink()
    second = toys.execute("tokenizer.yaml", write_result, sink=sink)
    assert not second.reused
    assert second.path.is_dir()
    (message,) = sink.events
    assert isinstance(message, Message)
    assert message.level == "warning"


def test_what_a_killed_attempt_left_in_the_store_is_removed_by_the_next(toys: Toys) -> None:
    with pytest.raises(WorkFailed):
        toys.execute("tokenizer.yaml", fail)
    left = toys.home / "store" / "tokenizer" / "demo" / only_job(toys) / "attempt-1"
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    outcome = toys.execute("tokenizer.yaml", write_result)
    assert [path.name for path in outcome.path.parent.iterdir()] == ["attempt-2"]


def test_an_output_folder_appears_whole(toys: Toys) -> None:
    target = toys.folder / "converted"

    def convert(context: WorkContext) -> WorkResult:
        assert not target.exists()
        return write_result(context)

    outcome = toys.execute("convert.yaml", convert)
    assert (outcome.path, outcome.artifact) == (target, None)
    assert [path.name for path in target.iterdir()] == ["result.txt"]
    assert toys.execute("convert.yaml", fail).reused
    assert [path.name for path in toys.folder.iterdir() if path.name.startswith(".converted")] == []


def test_an_output_folder_that_exists_is_left_alone(toys: Toys) -> None:
    (toys.folder / "converted").mkdir()
    (toys.folder / "converted" / "mine").write_text("precious")
    with pytest.raises(InputError, match=r"outputs\.path .*converted: exists already"):
        toys.execute("convert.yaml", write_result)
    assert (toys.folder / "converted" / "mine").read_text() == "precious"


def die_after_placing(toys: Toys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a job that puts its folder in place and ends before the registry knows."""

    def place_and_die(*arguments: Any) -> None:
        place(*arguments)
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("yuan_jobs.attempt.place", place_and_die)
        with pytest.raises(Interrupted):
            toys.execute("convert.yaml", write_result)


def test_an_output_folder_is_known_again_by_the_job_that_died_before_it_could_say_so(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_after_placing(toys, monkeypatch)
    target = toys.folder / "converted"
    assert [path.name for path in target.iterdir()] == ["result.txt"]
    done = toys.execute("convert.yaml", fail)
    assert (done.attempt, done.path, done.summary["path"]) == (2, target, str(target))
    assert toys.execute("convert.yaml", fail).reused


def test_an_output_folder_that_somebody_changed_is_not_taken_for_the_job_s(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_after_placing(toys, monkeypatch)
    (toys.folder / "converted" / "mine").write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        toys.execute("convert.yaml", write_result)


def test_an_attempt_that_was_overtaken_puts_no_folder_in_place(toys: Toys) -> None:
    target = toys.folder / "converted"

    def sleep_while_another_does_it(context: WorkContext) -> WorkResult:
        (context.output / "stale.txt").write_text("stale")
        assert toys.execute("convert.yaml", write_result).attempt == 2
        return WorkResult()

    with pytest.raises(StaleAttemptError):
        toys.execute("convert.yaml", sleep_while_another_does_it)
    assert [path.name for path in target.iterdir()] == ["result.txt"]
    assert toys.execute("convert.yaml", fail).reused


def test_an_overtaken_attempt_that_has_not_begun_yet_leaves_its_successor_s_output_alone(toys: Toys) -> None:
    outcome = toys.execute("tokenizer.yaml", write_result)
    store = toys.store()
    store.begin("tokenizer", "demo", Claim(outcome.job_id, 1, None))
    after = Claim(outcome.job_id, 2, None)
    (store.begin("tokenizer", "demo", after) / "mine").write_text("mine")
    store.begin("tokenizer", "demo", Claim(outcome.job_id, 1, None))
    assert (outcome.path.parent / "attempt-2" / "mine").read_text() == "mine"


def test_how_an_attempt_ended_is_told_until_the_registry_listens() -> None:
    tries: list[int] = []

    def tell() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise WorkFailed("registry: database or disk is full")

    tell_registry(tell, lambda: True)
    assert len(tries) == 3
    tries.clear()
    tell_registry(tell, lambda: False)
    assert len(tries) == 1

    def stale() -> None:
        tries.append(1)
        raise StaleAttemptError("another attempt")

    tell_registry(stale, lambda: True)
    assert len(tries) == 2


def test_a_failed_conversion_leaves_no_folder(toys: Toys) -> None:
    before = set(toys.folder.iterdir())
    with pytest.raises(WorkFailed):
        toys.execute("convert.yaml", fail)
    assert set(toys.folder.iterdir()) - before <= {toys.home}


def test_jobs_keep_recipe_and_topology_but_nothing_of_the_cluster(toys: Toys) -> None:
    job_id = toys.execute("tokenizer.yaml", write_result).job_id
    job = toys.store().registry.job(job_id)
    assert job is not None
    assert job.topology["nodes"]["devices"] == 2
    assert str(toys.home) not in json.dumps([job.recipe, job.topology, job.inputs])


def test_datasets_of_a_blend_come_in_the_manifests_order(toys: Toys, repository: Path) -> None:
    toys.execute("tokenizer.yaml", write_result)
    for name in ("one", "two"):
        toys.execute("tokenize.yaml", write_result, f"outputs.dataset={name}", f"name={name}")
    names: list[str] = []

    def look(context: WorkContext) -> WorkResult:
        names.extend(handle.name for handle in context.datasets)
        return write_result(context)

    blend = "inputs.datasets=[{name: two, weight: 1}, {name: one, weight: 2}]"
    toys.execute(str(repository / "configs/jobs/pretrain-demo.yaml"), look, blend)
    assert names == ["two", "one"]
