"""From raw text to generated text in the foreground, and everything that can go wrong on the way."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from .conftest import User

STEPS = 70  # far from their end when a signal is sent, however busy the machine is


def metrics_of(user: User) -> dict[int, float]:
    """Returns the training losses of the user's model by step."""
    shown = json.loads(user.does("show", "model/small", "--json"))
    lines = (Path(shown["path"]) / "metrics.jsonl").read_text().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines) if "loss" in record}


def wait_for_step(user: User, step: int) -> None:
    """Waits until the user's run has trained so many steps."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for path in user.home.glob("runs/small-pretrain*/metrics.jsonl"):
            if any(json.loads(line)["step"] >= step for line in path.read_text().splitlines(keepends=True)[:-1]):
                return
        time.sleep(0.05)
    raise AssertionError(f"no run reached step {step}")


def test_a_pipeline_goes_from_text_to_answers_and_is_not_done_twice(seasoned_user: tuple[User, str]) -> None:
    user, first = seasoned_user
    for expected in ("tokenizer/small@1", "dataset/small@1", "model/small@1", "report/small@1", "loss_curve.png"):
        assert expected in first
    assert "unigram" in first
    assert first.index("import os") < first.index("def main(")
    artifacts = json.loads(user.does("artifacts", "--json"))
    assert {f"{a['kind']}/{a['name']}@{a['version']}" for a in artifacts} == {
        "tokenizer/small@1",
        "dataset/small@1",
        "model/small@1",
        "report/small@1",
    }
    second = user.does("run", "pipeline.yaml")
    assert second.count("done before") >= 4
    assert "unigram" in second, "what a reused job came to is told again"
    assert len(json.loads(user.does("artifacts", "--json"))) == 4
    answer = user.does("generate", "small", "import os", "--max-tokens", "4")
    assert answer
    assert user.does("generate", "small", "import os", "--max-tokens", "4", "--stream") == answer


def test_ctrl_c_stops_at_once_and_the_next_run_has_the_losses_of_an_undisturbed_one(user: User) -> None:
    user.does("run", "tokenizer.yaml")
    user.does("run", "tokenize.yaml")
    run = user.starts("run", "pretrain.yaml", f"train.steps={STEPS}")
    wait_for_step(user, 7)
    # A terminal sends the signal to the whole foreground group, ranks included.
    os.killpg(run.pid, signal.SIGINT)
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 130, output + errors
    assert "Traceback" not in output + errors
    assert not user.processes()
    resumed = user.does("run", "pretrain.yaml", f"train.steps={STEPS}")
    assert "continues after step" in resumed
    interrupted = metrics_of(user)
    user.does("run", "pretrain.yaml", f"train.steps={STEPS}", "--force")
    assert list(interrupted) == list(range(1, STEPS + 1))
    assert interrupted == metrics_of(user)


def test_after_kill_9_the_run_resumes_also_with_other_stages(user: User) -> None:
    user.does("run", "tokenizer.yaml")
    user.does("run", "tokenize.yaml")
    run = user.starts("run", "pretrain.yaml", f"train.steps={STEPS}")
    wait_for_step(user, 7)
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 120
    while user.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not user.processes(), "services and ranks end with the command that started them"
    resumed = user.does("run", "pretrain.yaml", f"train.steps={STEPS}", "topology.parallel.stages=[3,1]")
    assert re.search(rf"continues after step \d*[05] of {STEPS}", resumed), resumed
    disturbed = metrics_of(user)
    user.does("run", "pretrain.yaml", f"train.steps={STEPS}", "--force")
    assert list(disturbed.values()) == pytest.approx(list(metrics_of(user).values()), abs=1e-4)


def test_a_second_run_in_the_same_home_is_refused_and_the_first_is_not_disturbed(user: User) -> None:
    user.does("run", "tokenizer.yaml")
    user.does("run", "tokenize.yaml")
    first = user.starts("run", "pretrain.yaml", f"train.steps={STEPS}")
    wait_for_step(user, 2)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it does not end before the second has looked
    line = user.is_refused("run", "tokenizer.yaml")
    os.killpg(first.pid, signal.SIGCONT)
    assert "YUAN_HOME" in line
    assert str(user.home) in line
    output, errors = first.communicate(timeout=200)
    assert first.returncode == 0, output + errors


@pytest.mark.slow
def test_two_homes_at_once_do_not_disturb_each_other(user: User, tmp_path: Path) -> None:
    other = User(tmp_path)
    other.home = tmp_path / "other-home"
    other.environment["YUAN_HOME"] = str(other.home)
    runs = [person.starts("run", "pipeline.yaml") for person in (user, other)]
    for run in runs:
        output, errors = run.communicate(timeout=400)
        assert run.returncode == 0, output + errors
    assert metrics_of(user) == metrics_of(other)


def test_what_a_user_gives_wrong_is_one_line_and_changes_nothing(seasoned_user: tuple[User, str]) -> None:
    user, _ = seasoned_user
    before = user.does("artifacts", "--json")
    refused = {
        ("run", "pipelin.yaml"): "pipeline.yaml",
        ("run", "pretrain.yaml", "train.stepz=3"): "train.steps",
        ("run", "pretrain.yaml", "topology.parallel.stages=[2,3]"): "sum",
        ("run", "pretrain.yaml", "inputs.tokenizer=smal"): "small",
        ("run", "tokenizer.yaml", "inputs.text=[nowhere/*.txt]"): "nowhere",
        ("show", "model/smal"): "small",
        ("show", "model/small@9"): "small",
        ("generate", "smal", "x"): "small",
        ("generate", "small", "import os " * 200): "128",
        ("generate", "small", ""): "empty",
        ("run", "pretrain.yaml", "model.vocab_size=100", "train.steps=3"): "vocab_size",
        ("artifakts",): "artifacts",
    }
    for arguments, expected in refused.items():
        line = user.is_refused(*arguments)
        assert expected in line, (arguments, line)
    (user.folder / "broken.yaml").write_text("version: 1\n  kind: [")
    assert "broken.yaml:2" in user.is_refused("run", "broken.yaml")
    (user.folder / "latin.py").write_bytes("# caf\xe9\n".encode("latin-1"))
    line = user.is_refused("run", "tokenizer.yaml", "inputs.text=[texts,latin.py]")
    assert "latin.py" in line
    assert "UTF-8" in line
    (user.folder / "empty").mkdir()
    assert "empty" in user.is_refused("run", "tokenizer.yaml", "inputs.text=[empty]")
    assert user.does("artifacts", "--json") == before


def test_a_copy_of_a_model_folder_generates_the_same_without_any_home(
    seasoned_user: tuple[User, str], tmp_path: Path
) -> None:
    user, _ = seasoned_user
    path = Path(json.loads(user.does("show", "model/small", "--json"))["path"])
    copy = tmp_path / "copied model"
    shutil.copytree(path, copy)
    answer = user.does("generate", "small", "import os", "--max-tokens", "6")
    other = User(tmp_path)
    other.environment["YUAN_HOME"] = str(tmp_path / "nothing here")
    assert other.does("generate", str(copy), "import os", "--max-tokens", "6") == answer
