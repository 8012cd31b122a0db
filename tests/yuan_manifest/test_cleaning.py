"""Stages of cleaning in a manifest."""

from pathlib import Path
from typing import Any

import pytest

from yuan_manifest import ManifestError, TokenizeJob, load_job, to_yaml
from yuan_manifest.cleaning import files_of_stage

MANIFEST = """version: 1
kind: tokenize
name: t
inputs: {tokenizer: t, text: [a]}
outputs: {dataset: d}
cleaning:
  - {stage: unicode}
  - %s
"""


def load(folder: Path, stage: str) -> TokenizeJob:
    (folder / "m.yaml").write_text(MANIFEST % stage)
    job = load_job(folder / "m.yaml")
    assert isinstance(job, TokenizeJob)
    return job


def test_a_stage_has_all_its_options_and_the_manifest_that_is_shown_loads_again(tmp_path: Path) -> None:
    job = load(tmp_path, "{stage: length, min_characters: 10}")

    assert job.cleaning[1] == {"stage": "length", "min_characters": 10, "max_characters": None}
    (tmp_path / "again.yaml").write_text(to_yaml(job))
    assert load_job(tmp_path / "again.yaml") == job


def test_a_stage_of_the_users_own_takes_any_options(tmp_path: Path) -> None:
    assert load(tmp_path, "{stage: 'my.stages:Mine', level: [1, 2]}").cleaning[1]["level"] == [1, 2]


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("{stage: unicod}", r"m\.yaml:8: cleaning\[1\]\.stage: expected one of unicode, .* did you mean unicode\?"),
        ("{min_characters: 1}", r"cleaning\[1\]\.stage: missing"),
        ("length", r"cleaning\[1\]: expected a section like"),
        (
            "{stage: length, min_character: 1}",
            r"cleaning\[1\]\.min_character: unknown key.*did you mean .*min_characters",
        ),
        ("{stage: length, min_characters: many}", r"cleaning\[1\]\.min_characters: expected a whole number"),
        ("{stage: length, min_characters: -1}", r"cleaning\[1\]\.min_characters: expected at least 0"),
        ("{stage: language}", r"cleaning\[1\]\.keep: missing"),
        ("{stage: language, keep: []}", r"cleaning\[1\]\.keep: is empty"),
        ("{stage: pii, kinds: [mail]}", r"cleaning\[1\]\.kinds\[0\]: expected one of .* did you mean email"),
        ("{stage: near_duplicates, threshold: 2}", r"cleaning\[1\]\.threshold: expected 0.1 to 1"),
        (
            "{stage: length, min_characters: 9, max_characters: 5}",
            r"cleaning\[1\]\.max_characters: expected at least min_characters \(9\), found 5",
        ),
        ("{stage: repeated_spans, sentences: 0}", r"cleaning\[1\]\.sentences: expected at least 1"),
        ("{stage: words}", r"cleaning\[1\]\.words: no word is listed"),
    ],
)
def test_a_wrong_stage_or_option_is_one_line_with_its_key(tmp_path: Path, stage: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words) as caught:
        load(tmp_path, stage)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("item", "files"),
    [
        ({"files": ["a/*.txt", "b"]}, ["a/*.txt", "b"]),
        ({"files": "a/*.txt"}, ["a/*.txt"]),
        ({}, []),
        ({"files": []}, []),
        ({"files": 5}, []),
        ({"files": ["a", 5]}, []),
        ({"files": {"a": 1}}, []),
    ],
)
def test_files_of_a_stage_are_texts_alone(item: dict[str, Any], files: list[str]) -> None:
    assert files_of_stage(item) == files
