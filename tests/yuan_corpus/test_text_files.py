"""Which files patterns name."""

import json
from pathlib import Path

import pytest

from yuan_corpus import TextError, find_text_files
from yuan_corpus.text_files import matches_here


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `corpus` under the working folder, which is below one named `test`."""
    work = tmp_path / "test"
    for name in (
        "b.txt",
        "a.txt",
        "sub/c.py",
        "sub/deep/d.txt",
        "test/e.txt",
        "sub/test/f.txt",
        ".hidden/g.txt",
        ".h.txt",
    ):
        path = work / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (work / "empty").mkdir()
    monkeypatch.chdir(work)
    return work / "corpus"


def names(corpus: Path, files: list[Path]) -> list[str]:
    return [path.relative_to(corpus).as_posix() for path in files]


EVERYTHING = ["a.txt", "b.txt", "sub/c.py", "sub/deep/d.txt", "sub/test/f.txt", "test/e.txt"]


def test_a_folder_means_every_file_below_it_in_order_but_hidden_ones(corpus: Path) -> None:
    assert names(corpus, find_text_files([str(corpus)])) == EVERYTHING
    assert names(corpus, find_text_files(["corpus"])) == EVERYTHING
    assert names(corpus, find_text_files(["corpus/"])) == EVERYTHING
    assert names(corpus, find_text_files(["corpus/**"])) == EVERYTHING


def test_patterns_keep_their_order_and_no_file_comes_twice(corpus: Path) -> None:
    (corpus / "link.txt").symlink_to(corpus / "a.txt")
    found = find_text_files(["corpus/sub/*", "corpus/b.txt", "corpus/**/*.txt", "./corpus/../corpus/b.txt"])

    assert names(corpus, found) == [
        "sub/c.py",
        "b.txt",
        "a.txt",
        "sub/deep/d.txt",
        "sub/test/f.txt",
        "test/e.txt",
    ]


def test_hidden_files_are_found_where_a_pattern_names_them(corpus: Path) -> None:
    assert names(corpus, find_text_files(["corpus/.hidden/*.txt"])) == [".hidden/g.txt"]


def test_the_home_folder_is_understood(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(corpus))

    assert names(corpus, find_text_files(["~/a.txt"])) == ["a.txt"]
    assert names(corpus, find_text_files(["~"], ["~/sub"])) == ["a.txt", "b.txt", "test/e.txt"]


@pytest.mark.parametrize("text", ["corpus", "corpus/**/*", "corpus/**"])
@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["test"], ["a.txt", "b.txt", "sub/c.py", "sub/deep/d.txt"]),
        (["**/test/**"], ["a.txt", "b.txt", "sub/c.py", "sub/deep/d.txt"]),
        (["test/**"], ["a.txt", "b.txt", "sub/c.py", "sub/deep/d.txt", "sub/test/f.txt"]),
        (["*.txt"], ["sub/c.py"]),
        (["**/*.txt"], ["sub/c.py"]),
        (["sub/*.txt"], EVERYTHING),
        (["sub/**/*.txt"], ["a.txt", "b.txt", "sub/c.py", "test/e.txt"]),
        (["corpus/sub"], ["a.txt", "b.txt", "test/e.txt"]),
        (["./corpus/sub/"], ["a.txt", "b.txt", "test/e.txt"]),
        (["[!a]*"], ["a.txt"]),
        (["?.txt", "sub"], ["test/e.txt"][:0]),
    ],
)
def test_excluded_files_are_left_out(corpus: Path, text: str, exclude: list[str], left: list[str]) -> None:
    if not left:
        with pytest.raises(TextError, match="leaves out everything"):
            find_text_files([text], exclude)
        return
    assert names(corpus, find_text_files([text], exclude)) == left


def test_an_absolute_exclusion_works(corpus: Path) -> None:
    assert names(corpus, find_text_files(["corpus"], [f"{corpus}/sub", f"{corpus}/test/*"])) == ["a.txt", "b.txt"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("corpus/*.md", "no file matches this pattern$"),
        ("nowhere/**/*.md", r"no file matches this pattern \(.*/nowhere does not exist\)"),
        ("corpus/x.txt", "no such file or folder"),
        ("empty", "this folder has no files"),
        ("empty/**", "no file matches this pattern"),
    ],
)
def test_a_pattern_that_names_nothing_is_said(corpus: Path, pattern: str, words: str) -> None:
    with pytest.raises(TextError, match=words) as caught:
        find_text_files(["corpus", pattern])
    assert str(caught.value).startswith(f"text {pattern}: ")
    assert "\n" not in str(caught.value)


def test_no_patterns_at_all_are_said() -> None:
    with pytest.raises(TextError, match=r"inputs\.text"):
        find_text_files([])


def test_the_standard_library_of_the_running_python_has_a_name_of_its_own() -> None:
    found = find_text_files(["python-stdlib:json/*.py"], ["tool.py"])
    assert found == [
        Path(json.__file__).with_name(f"{name}.py") for name in ("__init__", "decoder", "encoder", "scanner")
    ]
    with pytest.raises(TextError, match=r"text python-stdlib:jsonn/\*\.py: no file matches this pattern"):
        find_text_files(["python-stdlib:jsonn/*.py"])


def test_links_to_folders_are_followed_once_however_they_go_round(tmp_path: Path) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    (corpus / "子 目录").mkdir(parents=True)
    other.mkdir()
    for path in (corpus / "a.txt", corpus / "子 目录" / "b [1].txt", other / "c.txt"):
        path.write_text("x")
    for name in ("loop1", "loop2", "loop3"):
        (corpus / name).symlink_to(corpus)
    (corpus / "子 目录" / "up").symlink_to("..")
    (corpus / "0-linked").symlink_to(corpus / "子 目录")
    (corpus / "other").symlink_to(other)
    found = [corpus / "a.txt", corpus / "other" / "c.txt", corpus / "子 目录" / "b [1].txt"]

    for pattern in (corpus, corpus / "**", corpus / "**" / "*.txt", tmp_path / "c*" / "**" / "*"):
        assert find_text_files([str(pattern)]) == found
    assert matches_here(f"{corpus}/**/c.txt")
    assert not matches_here(f"{corpus}/**/d.txt")
