"""Text that is no text, too much of it, or no room: one line says what and where, and nothing half is left."""

import gzip
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from yuan_corpus import Reading, TextError, Tokenizer, find_text_files, open_dataset, tokenize_corpus
from yuan_corpus import documents as documents_module
from yuan_corpus import sources as sources_module
from yuan_corpus.documents import SkipLog, expand, read_documents, slice_files
from yuan_events import WorkFailed

SKIP = Reading(skip_broken=True)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> int:
    """Makes the longest document 3000 bytes, and slices of 1000."""
    monkeypatch.setattr(documents_module, "SLICE_BYTES", 1000)
    monkeypatch.setattr(documents_module, "LONGEST_DOCUMENT", 3000)
    return 3000


def read(path: Path, how: Reading = SKIP) -> tuple[list[str], SkipLog]:
    log = SkipLog()
    found = [text for part in expand(slice_files([path], how), how) for text in read_documents(part, how, log)]
    return found, log


def long_lines(limit: int) -> list[str]:
    return ["first", "x" * limit, "y" * (limit + 1), "middle", "z" * (5 * limit), "last"]


def plain(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines))
    return path


def compressed(path: Path, lines: list[str]) -> Path:
    path = path.with_name(path.name + ".gz")
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


@pytest.mark.parametrize("write", [plain, compressed])
def test_a_line_that_is_too_long_is_skipped_alone_and_named_with_its_byte(
    tmp_path: Path, write: Callable[[Path, list[str]], Path], short: int
) -> None:
    lines = long_lines(short)
    found, log = read(write(tmp_path / "a.txt", lines))
    assert found == ["first", "x" * short, "middle", "last"]
    assert log.count == 2
    places = [sum(len(line) + 1 for line in lines[:number]) for number in (2, 4)]
    for place, told in zip(places, log.first, strict=True):
        what = f"at byte {place}" if write is plain else "a document"
        assert f"{what} is longer than" in told


@pytest.mark.parametrize("write", [plain, compressed])
def test_a_line_that_is_too_long_is_an_error_where_nothing_is_skipped(
    tmp_path: Path, write: Callable[[Path, list[str]], Path], short: int
) -> None:
    with pytest.raises(TextError, match=r"is longer than 0 MiB, the most that a document may have; cut it, or"):
        read(write(tmp_path / "a.txt", long_lines(short)), Reading())


def test_a_record_that_fills_piece_after_piece_of_a_compressed_file_is_dropped_as_it_comes(
    tmp_path: Path, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources_module, "_CHUNK", 16)
    path = tmp_path / "a.jsonl.gz"
    drawn = random.Random(1)
    noise = "".join(drawn.choices("abcdefghijklmnop", k=8 * short))
    path.write_bytes(gzip.compress(f'{{"text": "one"}}\n{{"text": "{noise}"}}\n{{"text": "two"}}\n'.encode()))
    found, log = read(path)
    assert found == ["one", "two"]
    assert (log.count, "the record at byte 16 is longer than" in log.first[0]) == (1, True)


def test_a_file_that_is_one_document_may_not_be_longer_either(tmp_path: Path, short: int) -> None:
    path = tmp_path / "a.py"
    path.write_text("x" * (short + 1))
    found, log = read(path)
    assert (found, log.count) == ([], 1)
    assert "this file, which is one document, is longer than" in log.first[0]


def test_a_csv_whose_quotes_do_not_close_costs_its_rest(tmp_path: Path, short: int) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "good\n" * 10 + '"never closed\n' + "line\n" * 2 * short)
    found, log = read(path)
    assert found == ["good"] * 10
    assert log.count >= 1


def test_a_line_of_marks_alone_is_no_document_and_nul_bytes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"<n>\ngood\n\x00binary\x00\nbad \xff\xfe here\n<n><n>\n  <n>\nalso good\n")
    found, log = read(path)
    assert found == ["good", "also good"]
    assert log.count == 2
    assert "byte 9 is NUL" in log.first[0]
    assert "byte 22 (0xFF)" in log.first[1]
    with pytest.raises(TextError, match="byte 9 is NUL"):
        read(path, Reading())


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="this folder has no files"):
        find_text_files([str(tmp_path)])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, tokenizer: Tokenizer, workers: int) -> None:
    source = tmp_path / "a.txt"
    source.write_text("some words of a document\n" * 20_000)
    output = tmp_path / "out"
    output.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(WorkFailed, match="the dataset cannot be written"):
            tokenize_corpus([source], tokenizer, output, workers=workers)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(output.iterdir()) == []


MEASURES = """
import resource, sys
from pathlib import Path
from yuan_corpus import Reading, TextError, Tokenizer, tokenize_corpus
if __name__ == "__main__":
    source, tokenizer, output, workers = sys.argv[1:]
    try:
        made = tokenize_corpus([Path(source)], Tokenizer.load(tokenizer), Path(output), workers=int(workers))
        print(made.documents, made.tokens)
    except TextError as error:
        print(error)
    # Not this process's `ru_maxrss`, which begins with what the process had that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    print(own + int(workers) * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if int(workers) > 1 else own)
"""


def measure(source: Path, tokenizer: Path, output: Path, workers: int = 1) -> tuple[str, int]:
    """Returns what a run says, and the MiB that it had at most, its workers as if all had as much as the largest."""
    output.mkdir()
    script = output.with_suffix(".py")
    script.write_text(MEASURES)
    done = subprocess.run(
        [sys.executable, script, source, tokenizer, output, str(workers)], capture_output=True, text=True, check=True
    )
    said, kib = done.stdout.splitlines()
    return said, int(kib) >> 10


@pytest.mark.slow
def test_a_line_of_two_gigabytes_is_one_line_of_error(tmp_path: Path, tokenizer_folder: Path) -> None:
    source = tmp_path / "a.txt"
    with source.open("wb") as file:
        os.truncate(file.fileno(), 2 << 30)
    said, mib = measure(source, tokenizer_folder, tmp_path / "out")
    assert "the line at byte 0 is longer than 64 MiB" in said
    assert mib < 1000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path, tokenizer_folder: Path) -> None:
    block = "".join(f"document {number} of some words, 和一些中文。\n" for number in range(20_000)).encode()
    peaks: list[int] = []
    for blocks in (40, 160):
        source = tmp_path / f"{blocks}.txt"
        with source.open("wb") as file:
            for _ in range(blocks):
                file.write(block)
        said, mib = measure(source, tokenizer_folder, tmp_path / f"out-{blocks}", workers=2)
        assert said.split()[0] == str(20_000 * blocks)
        peaks.append(mib)
    assert max(peaks) < 1000
    # What is left to grow are 20 bytes a document of the shard that is being written.
    assert peaks[1] - peaks[0] < 150
    assert len(open_dataset(tmp_path / "out-160")) == 20_000 * 160


def test_a_files_name_of_any_bytes_is_told_in_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    names = [b"bad\xff.txt", b"new\nline.txt", b"\x1b[31mred.txt"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"fine\nb\0d\n")
    output = tmp_path / "out"
    output.mkdir()
    files = find_text_files([f"{tmp_path}/*.txt"])
    skipped = SkipLog()
    tokenize_corpus(files, tokenizer, output, reading=Reading(skip_broken=True), skipped=skipped)

    assert sorted(place.partition(": ")[0].rpartition("/")[2] for place in skipped.first) == [
        r"\x1b[31mred.txt", r"bad\xff.txt", r"new\nline.txt",
    ]  # fmt: skip
    assert all(place.isprintable() for place in skipped.first)
