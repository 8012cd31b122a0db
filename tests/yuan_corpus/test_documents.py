"""Files to documents."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yuan_corpus import DocumentMode, TextError
from yuan_corpus import documents as documents_module
from yuan_corpus.documents import Format, TextSlice, clean_line, read_documents, slice_files


def read(path: Path, mode: DocumentMode = DocumentMode.AUTO) -> list[str]:
    return [document for part in slice_files([path], mode) for document in read_documents(part)]


@pytest.mark.parametrize(
    ("line", "document"),
    [
        ("\n", None),
        ("plain text\n", "plain text"),
        ("  \t spaces around \u3000\n", "spaces around"),
        ("<n>first<n>second\n", "first\nsecond"),
        ("<n><n>two\n", "\ntwo"),
        ("<n>\n", None),
        ("<n><n>\n", None),
        ("问题[SEP]答案\n", "问题<sep>答案"),
        ("a▃b\n", "ab"),
        ("▃\n", None),
        ("   \n", None),
        ("no line end", "no line end"),
    ],
)
def test_a_line_becomes_a_document_by_the_originals_rules(line: str, document: str | None) -> None:
    assert clean_line(line) == document


def test_a_txt_file_is_a_document_a_line_and_any_other_file_one_document(tmp_path: Path) -> None:
    content = "one\n\n  two  \r\nthree\rfour"
    for name in ("a.txt", "a.TXT", "a.py"):
        (tmp_path / name).write_bytes(content.encode())

    assert read(tmp_path / "a.txt") == ["one", "two", "three", "four"]
    assert read(tmp_path / "a.TXT") == read(tmp_path / "a.txt")
    assert read(tmp_path / "a.py") == [content]


def test_the_mode_decides_whatever_the_names_are(tmp_path: Path) -> None:
    for name in ("a.txt", "a.py"):
        (tmp_path / name).write_text("one\ntwo\n")

    assert read(tmp_path / "a.txt", DocumentMode.FILES) == ["one\ntwo\n"]
    assert read(tmp_path / "a.py", DocumentMode.LINES) == ["one", "two"]


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfx = 1")

    assert read(tmp_path / "a.py") == ["x = 1"]


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40), max_size=20),
    st.integers(1, 30),
)
@settings(max_examples=200, deadline=None)
def test_slices_of_any_size_hold_the_same_documents(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], size: int
) -> None:
    path = tmp_path_factory.mktemp("slices") / "a.txt"
    path.write_bytes("\n".join(lines).encode() + b"\nlast")
    whole = read(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "SLICE_BYTES", size)
        assert read(path) == whole


def test_a_file_that_is_not_utf_8_is_refused_with_file_offset_and_mend(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("第一行\n".encode() + "中文".encode("gb18030"))

    with pytest.raises(TextError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: not UTF-8 at byte 10 (0xD6); convert it (`iconv -f GB18030 -t UTF-8`), "
        "or leave it out with inputs.exclude, or what is broken in it with inputs.on_error: skip"
    )


def test_the_offset_is_counted_from_the_files_beginning_in_later_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "SLICE_BYTES", 16)
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456789\n" * 5 + b"abc\xff\xfe\xfd\n")

    with pytest.raises(TextError, match=r"at byte 58 \(0xFF\)"):
        read(path)


def test_a_utf_16_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("plain", encoding="utf-16")

    with pytest.raises(TextError, match=r"not UTF-8 at byte 0 \(0xFF\); convert it \(`iconv -f UTF-16 "):
        read(tmp_path / "a.py")


def test_a_binary_file_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"abc\0\xff")

    with pytest.raises(TextError, match="byte 3 is NUL, so this is a binary file"):
        read(tmp_path / "a.py")


def test_empty_files_alone_are_no_text(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.py"]
    for path in paths:
        path.touch()

    with pytest.raises(TextError, match="all 2 files are empty"):
        slice_files(paths)
    with pytest.raises(TextError, match=r"a\.txt is empty"):
        slice_files(paths[:1])


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no such file"):
        slice_files([tmp_path / "x.txt"])
    with pytest.raises(TextError, match="is a folder where a file is expected"):
        slice_files([tmp_path])


def test_a_file_that_vanished_since_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    parts = slice_files([path])
    path.unlink()

    with pytest.raises(TextError, match="cannot be read"):
        list(read_documents(parts[0]))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([*"ab \n\n\r\t", "\u2583", "<n>", "[SEP]", "\x0b", "\x1c", "\x85", "\u2028", "中"]), max_size=25
    )
)
def test_lines_without_marks_are_read_as_those_with_them(parts: list[str]) -> None:
    text = "".join(parts)
    part = TextSlice(Path("a.txt"), Format.LINES, 0, 0, 0, data=text.encode())
    expected = [document for line in io.StringIO(text, newline=None) if (document := clean_line(line))]
    assert list(read_documents(part)) == expected
