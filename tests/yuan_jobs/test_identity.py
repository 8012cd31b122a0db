"""Equal jobs have equal identities, and only they."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yuan_jobs import digest_of_files
from yuan_jobs.identity import canonical_json, digest_of, job_identity, plain_json

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), plain, max_size=5))
def test_the_order_of_keys_does_not_matter(recipe: dict[str, object]) -> None:
    assert job_identity(recipe, {}) == job_identity(dict(reversed(recipe.items())), {})


def test_recipe_and_versions_of_inputs_matter() -> None:
    identities = {
        job_identity({"steps": 1}, {"tokenizer": "tokenizer/demo@1"}),
        job_identity({"steps": 2}, {"tokenizer": "tokenizer/demo@1"}),
        job_identity({"steps": 1}, {"tokenizer": "tokenizer/demo@2"}),
        job_identity({"steps": 1}, {}),
    }
    assert len(identities) == 4


def test_what_json_cannot_hold_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest_of(math.nan)


def corpus(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [folder / name for name in files]


def test_a_moved_corpus_has_the_same_digest_and_a_changed_or_renamed_one_another(tmp_path: Path) -> None:
    files = {"a.txt": "one", "sub/b.txt": "two"}
    here, there = corpus(tmp_path / "here", files), corpus(tmp_path / "there", files)
    assert digest_of_files(here) == digest_of_files(reversed(there))
    changed = corpus(tmp_path / "changed", {"a.txt": "one", "sub/b.txt": "two!"})
    renamed = corpus(tmp_path / "renamed", {"a.txt": "one", "sub/c.txt": "two"})
    swapped = corpus(tmp_path / "swapped", {"a.txt": "two", "sub/b.txt": "one"})
    assert len({digest_of_files(paths) for paths in (here, changed, renamed, swapped)}) == 4


def test_the_digest_of_no_files_and_of_one_file_exist(tmp_path: Path) -> None:
    assert digest_of_files([]) != digest_of_files(corpus(tmp_path, {"a": ""}))


@given(plain)
def test_plain_values_stay_what_they_are(value: object) -> None:
    assert plain_json(value) == value


def test_numbers_of_numpy_and_what_json_cannot_hold_become_plain() -> None:
    value = {"loss": np.float32(1.5), "counts": np.array([1, 2]), 3: (math.nan, math.inf), "path": Path("x")}
    assert plain_json(value) == {"loss": 1.5, "counts": [1, 2], "3": [None, None], "path": "x"}
    canonical_json(plain_json(value))
