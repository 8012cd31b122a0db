"""`python -m yuan_inference generate`: only the continuation on stdout, one line on stderr for what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tiny_models import CONTEXT

from yuan_events import InputError, Text, event_from_json
from yuan_inference.command import generate_command
from yuan_inference.generation import continue_prompt, prepare
from yuan_inference.loaded import LoadedModel
from yuan_jobs.references import ArtifactNotFound
from yuan_manifest.schema import SamplingSection

PROMPT = "shall I compare"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("YUAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("YUAN_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def expected(loaded: LoadedModel, **sampling: object) -> str:
    section = SamplingSection(**{"max_tokens": 10, **sampling})
    return continue_prompt(loaded, prepare(loaded, PROMPT, section.max_tokens), section, len).text


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_only_the_continuation_is_printed(
    stream: list[str], model_folder: Path, loaded: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_command([str(model_folder), PROMPT, "--max-tokens", "10", *stream]) == 0
    printed = capsys.readouterr()
    assert printed.out == expected(loaded) + "\n"
    assert not printed.err


def test_sampling_options_mean_what_a_jobs_sampling_means(
    model_folder: Path, loaded: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--max-tokens", "10", "--temperature", "0.8", "--top-k", "20", "--top-p", "0.9", "--seed", "3"]
    generate_command([str(model_folder), PROMPT, *options])
    text = expected(loaded, temperature=0.8, top_k=20, top_p=0.9, seed=3)
    assert capsys.readouterr().out == text + "\n"
    assert text != expected(loaded)


def test_json_is_one_object_and_with_stream_events_line_by_line(
    model_folder: Path, loaded: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    text = expected(loaded)
    generate_command([str(model_folder), PROMPT, "--max-tokens", "10", "--json"])
    whole = json.loads(capsys.readouterr().out)
    assert (whole["prompt"], whole["text"], whole["new_tokens"]) == (PROMPT, text, 10)
    assert whole["finish_reason"] == "length"
    generate_command([str(model_folder), PROMPT, "--max-tokens", "10", "--json", "--stream"])
    events = [event_from_json(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0] == Text(0, PROMPT, "prompt")
    assert events[-1] == Text(0, "length", "end")
    assert "".join(event.text for event in events[1:-1] if isinstance(event, Text)) == text


def test_what_was_cut_is_said_on_stderr(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_command([str(model_folder), PROMPT, "--max-tokens", "5000"])
    assert capsys.readouterr().err.startswith("max_tokens 5000 is cut to ")


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--max-tokens", "0", "--max-tokens: expected at least 1, found 0"),
        ("--temperature", "-1", "--temperature: expected at least 0, found -1.0"),
        ("--temperature", "nan", "--temperature: expected at least 0, found nan"),
        ("--top-k", "-1", "--top-k: expected at least 0, found -1"),
        ("--top-p", "0", "--top-p: expected more than 0 and at most 1, found 0.0"),
        ("--seed", "-1", "--seed: expected 0 to 2^63 - 1, found -1"),
        ("--top-k", "many", "argument --top-k: invalid int value: 'many'"),
        ("--max-token", "3", "unrecognized arguments"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(option: str, value: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        generate_command(["./none", PROMPT, f"{option}={value}"])
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_does_not_exist_is_refused_by_name(home: Path) -> None:
    with pytest.raises(InputError, match=r"^\./none: no such folder"):
        generate_command(["./none", PROMPT])
    with pytest.raises(InputError, match="poem"):
        generate_command(["poem", PROMPT])
    assert home.is_dir()


def test_a_folder_of_texts_that_has_the_name_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "essay.txt").write_text("once upon a time")
    with pytest.raises(ArtifactNotFound):
        generate_command(["mine", PROMPT])


def test_a_folder_without_a_sign_of_a_path_is_found_where_no_artifact_has_its_name(
    model_folder: Path, tokenizer_folder: Path, tmp_path: Path, loaded: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folder, tmp_path / "models" / "mine", ignore=shutil.ignore_patterns("tokenizer"))
    options = ["--max-tokens", "10", "--tokenizer", str(tokenizer_folder)]
    generate_command(["models/mine", PROMPT, *options])
    (tmp_path / "models" / "mine").rename(tmp_path / "mine")
    generate_command(["mine", PROMPT, *options])
    assert capsys.readouterr().out == 2 * (expected(loaded) + "\n")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yuan_inference", "generate", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
    )


def test_as_a_process_it_prints_the_continuation_and_ends_with_0(model_folder: Path, loaded: LoadedModel) -> None:
    done = run(str(model_folder), PROMPT, "--max-tokens", "10", "--stream")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected(loaded) + "\n", "")


def test_as_a_process_it_ends_with_2_and_one_line_for_a_prompt_longer_than_the_context(model_folder: Path) -> None:
    done = run(str(model_folder), "q7" * CONTEXT)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"but the model's context is {CONTEXT} tokens" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_empty_prompt_is_refused(model_folder: Path) -> None:
    with pytest.raises(InputError, match="the prompt is empty; a prompt needs at least one token"):
        generate_command([str(model_folder), ""])
