"""A corpus to an indexed dataset."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from yuan_corpus import (
    CorpusError,
    DatasetStatistics,
    DocumentMode,
    IndexedDatasetError,
    Reading,
    TextError,
    Tokenizer,
    count_tokens,
    open_dataset,
    read_counts,
    tokenize_corpus,
    unigram_cross_entropy,
)
from yuan_corpus import documents as documents_module
from yuan_corpus import tokenization as tokenization_module
from yuan_events import Interrupted, Progress, RecordingSink


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes units of work so small that some files give many."""
    monkeypatch.setattr(documents_module, "SLICE_BYTES", 10_000)
    monkeypatch.setattr(tokenization_module, "SLICE_BYTES", 10_000)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_documents_are_the_files_in_order_each_with_its_end(
    tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer
) -> None:
    statistics = tokenize_corpus(source_files, tokenizer, tmp_path)
    dataset = open_dataset(tmp_path)

    assert len(dataset) == len(source_files) == statistics.documents
    for item, path in enumerate(source_files):
        ids = dataset[item].tolist()
        assert ids[-1] == tokenizer.eod_id
        assert tokenizer.decode(ids[:-1]) == path.read_bytes().decode()


@pytest.mark.usefixtures("small_units")
def test_the_output_is_the_same_bytes_whatever_the_number_of_workers(
    tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer
) -> None:
    outputs: list[dict[str, bytes]] = []
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        tokenize_corpus(
            source_files, tokenizer, folder, reading=Reading(DocumentMode.LINES), workers=workers, shard_bytes=50_000
        )
        outputs.append(content(folder))

    assert outputs[0] == outputs[1] == outputs[2]
    assert set(outputs[0]) >= {"part-00000.bin", "part-00001.idx", "statistics.json", "unigram_counts.npy"}


def test_statistics_say_what_is_there(tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer) -> None:
    returned = tokenize_corpus(source_files, tokenizer, tmp_path)
    statistics = DatasetStatistics.read(tmp_path)
    dataset = open_dataset(tmp_path)

    assert statistics == returned
    assert statistics.tokens == dataset.token_count
    assert statistics.text_bytes == statistics.source_bytes == sum(path.stat().st_size for path in source_files)
    assert statistics.bytes_per_token == pytest.approx(statistics.text_bytes / statistics.tokens, abs=1e-4)
    assert statistics.tokenizer_digest == tokenizer.digest
    assert statistics.special_ids == tokenizer.special_ids
    assert statistics.dtype == dataset.dtype.name == "uint16"
    assert json.loads((tmp_path / "statistics.json").read_text())["vocab_size"] == 1000


def test_counts_are_those_of_the_tokens(tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer) -> None:
    tokenize_corpus(source_files, tokenizer, tmp_path)
    dataset = open_dataset(tmp_path)
    counts = read_counts(tmp_path)

    assert counts.sum() == dataset.token_count
    assert counts[tokenizer.eod_id] == len(dataset)
    assert (count_tokens(dataset, range(len(dataset)), 1000) == counts).all()
    parts = [count_tokens(dataset, range(*bounds), 1000) for bounds in ((0, 3), (3, len(dataset)))]
    assert (parts[0] + parts[1] == counts).all()
    assert (count_tokens(dataset, range(0), 1000) == 0).all()


def test_a_vocabulary_smaller_than_the_datasets_is_refused(
    tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer
) -> None:
    tokenize_corpus(source_files[:1], tokenizer, tmp_path)

    with pytest.raises(CorpusError, match="whose vocabulary has 500"):
        count_tokens(open_dataset(tmp_path), range(1), 500)


def test_unigram_cross_entropy_adds_one_to_every_count() -> None:
    training, validation = np.array([3, 0, 1]), np.array([1, 1, 0])

    expected = -(np.log(4 / 7) + np.log(1 / 7)) / 2
    assert unigram_cross_entropy(training, validation) == pytest.approx(expected)


def test_unigram_cross_entropy_of_a_uniform_text_is_the_logarithm_of_the_vocabulary() -> None:
    assert unigram_cross_entropy(np.full(50, 7), np.full(50, 2)) == pytest.approx(np.log(50))


def test_unigram_cross_entropy_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 tokens"):
        unigram_cross_entropy(np.ones(3, np.int64), np.zeros(3, np.int64))


@pytest.mark.usefixtures("small_units")
def test_progress_counts_megabytes_and_tells_documents_and_tokens(
    tmp_path: Path, source_files: list[Path], tokenizer: Tokenizer
) -> None:
    sink = RecordingSink()
    statistics = tokenize_corpus(source_files, tokenizer, tmp_path, sink=sink)
    events = [event for event in sink.events if isinstance(event, Progress)]

    assert events[0].done == 0
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == events[-1].total == round(statistics.source_bytes / 1e6, 3)
    counted = f"{statistics.documents:,} documents, {statistics.tokens:,} tokens"
    assert re.fullmatch(counted + r", \d+\.\d MB/s", events[-1].detail)


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("workers", [1, 2])
def test_text_that_is_broken_ends_the_work_and_leaves_nothing(
    tmp_path: Path,
    source_files: list[Path],
    tokenizer: Tokenizer,
    processes_left: Callable[[], list[str]],
    workers: int,
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_bytes(b"x = '\xff'")
    output = tmp_path / "out"
    output.mkdir()

    with pytest.raises(TextError, match=r"broken\.py: not UTF-8 at byte 5"):
        tokenize_corpus([*source_files, broken], tokenizer, output, workers=workers)
    assert list(output.iterdir()) == []
    assert processes_left() == []


def test_whitespace_alone_is_no_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" \n<n>\n\n")

    with pytest.raises(TextError, match="no document in 1 file: all of their text is whitespace"):
        tokenize_corpus([path], tokenizer, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("workers", [1, 2])
def test_work_ends_soon_once_it_is_asked_to_stop(
    tmp_path: Path,
    source_files: list[Path],
    tokenizer: Tokenizer,
    processes_left: Callable[[], list[str]],
    workers: int,
) -> None:
    sink = RecordingSink()

    with pytest.raises(Interrupted):
        tokenize_corpus(
            source_files, tokenizer, tmp_path, workers=workers, sink=sink, should_stop=lambda: len(sink.events) > 3
        )
    assert list(tmp_path.iterdir()) == []
    assert processes_left() == []


TOKENIZES_FOR_LONG = """
import sys
from collections.abc import Callable
from pathlib import Path
from yuan_corpus import Tokenizer, tokenize_corpus

class Sink:
    def emit(self, event): print(event.done, flush=True)

if __name__ == "__main__":
    tokenizer, output, *files = map(Path, sys.argv[1:])
    tokenize_corpus(files * 2000, Tokenizer.load(tokenizer), output, workers=3, sink=Sink())
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_no_process_and_no_finished_looking_file_is_left_by_a_run_that_is_ended(
    tmp_path: Path, tokenizer_folder: Path, source_files: list[Path], sent: signal.Signals
) -> None:
    script, output = tmp_path / "script.py", tmp_path / "out"
    script.write_text(TOKENIZES_FOR_LONG)
    output.mkdir()
    process = subprocess.Popen(
        [sys.executable, script, tokenizer_folder, output, *source_files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline()
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    # As a terminal does it: to all processes at once. A kill hits the parent alone.
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)
    else:
        process.kill()
    _, errors = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(children, timeout=60)

    assert not alive
    assert [path.name for path in output.iterdir() if path.suffix != ".tmp"] == []
    assert errors.count("Traceback") == (1 if sent == signal.SIGINT else 0)


@pytest.mark.parametrize("table", ["{}", "[]", "x", '{"shards": [{"name": 1}]}'])
def test_broken_statistics_are_refused_by_name(tmp_path: Path, table: str) -> None:
    (tmp_path / "statistics.json").write_text(table)

    with pytest.raises(CorpusError, match=r"statistics\.json: not a dataset's statistics"):
        DatasetStatistics.read(tmp_path)


def test_a_folder_without_statistics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="this is not a dataset"):
        DatasetStatistics.read(tmp_path)
    with pytest.raises(CorpusError, match="unigram_counts"):
        read_counts(tmp_path)


def test_a_folder_of_which_a_part_is_missing_is_no_dataset(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {number} of a text\n" for number in range(400)))
    whole = tmp_path / "whole"
    whole.mkdir()
    tokenize_corpus([tmp_path / "a.txt"], tokenizer, whole, shard_bytes=1)
    single = tmp_path / "single"
    shutil.copytree(whole, single)
    (single / "part-00000.idx").unlink()
    with pytest.raises(IndexedDatasetError, match=r"no \.bin/\.idx pair in this folder"):
        open_dataset(single)
    shutil.copy(whole / "part-00000.idx", single / "part-00001.idx")
    shutil.copy(whole / "part-00000.bin", single / "part-00001.bin")
    with pytest.raises(IndexedDatasetError, match=r"part-00000\.idx: no such file"):
        open_dataset(single)
    (single / "part-00000.bin").unlink()
    with pytest.raises(IndexedDatasetError, match=r"part-00000\.bin and \.idx are missing of this dataset"):
        open_dataset(single)
