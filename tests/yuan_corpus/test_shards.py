"""Shards: made apart, found again only when whole, and laid into one dataset whoever made them."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from yuan_corpus import CorpusWork, Cutting, Reading, TextError, Tokenizer, open_dataset, tokenize_corpus
from yuan_corpus import documents as documents_module
from yuan_corpus import tokenization as tokenization_module
from yuan_corpus.cleaning import StageSpec
from yuan_corpus.documents import SkipLog
from yuan_corpus.sources import stamp_of
from yuan_events import Interrupted, Message, Progress, RecordingSink

SHARD_BYTES = 4000


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents_module, "SLICE_BYTES", 1000)
    monkeypatch.setattr(tokenization_module, "SLICE_BYTES", 1000)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for name in "abc":
        lines = [f"{name} document {number} of some words and 中文" for number in range(120)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


class Runs:
    """Runs of the same work, each in a folder of its own, over one folder of whole shards."""

    def __init__(self, text: Path, tokenizer: Tokenizer, folder: Path) -> None:
        self.text, self.tokenizer, self.folder = text, tokenizer, folder
        self.kept = folder / "kept"
        self.kept.mkdir()
        self._numbers = itertools.count()

    def work(self, seed: int | None = None, cleaning: tuple[StageSpec, ...] = (), special: bool = True) -> CorpusWork:
        output = self.folder / f"run-{next(self._numbers)}"
        output.mkdir()
        cutting = Cutting(self.tokenizer, Reading(skip_broken=True), cleaning, special)
        paths = sorted(self.text.iterdir())
        return CorpusWork(paths, cutting, output, kept=self.kept, shard_bytes=SHARD_BYTES, shuffle_seed=seed)

    def whole(self, **options: object) -> dict[str, bytes]:
        """Makes all of it in one go, without anything kept."""
        output = self.folder / f"whole-{next(self._numbers)}"
        output.mkdir()
        tokenize_corpus(
            sorted(self.text.iterdir()), self.tokenizer, output, reading=Reading(skip_broken=True),
            shard_bytes=SHARD_BYTES, **options,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        return content(output)


@pytest.fixture
def runs(text: Path, tokenizer: Tokenizer, tmp_path: Path) -> Runs:
    return Runs(text, tokenizer, tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shards_made_apart_and_out_of_order_are_the_same_dataset(runs: Runs) -> None:
    names = [shard.name for shard in runs.work().missing()]
    assert len(names) >= 3
    for name in reversed(names):
        runs.work().make([name])
    work = runs.work()
    assert work.missing() == []
    work.assemble()
    assert content(work.output) == runs.whole()


def test_an_interrupted_run_keeps_its_whole_shards_and_the_next_does_the_rest(runs: Runs) -> None:
    sink = RecordingSink()
    first = runs.work()
    with pytest.raises(Interrupted):
        first.make(sink=sink, should_stop=lambda: sum(isinstance(event, Progress) for event in sink.events) > 8)
    there = {path.name: path.stat().st_mtime_ns for path in runs.kept.glob("*.json")}
    assert 0 < len(there) < len(first.shards)
    assert not list(first.output.iterdir())
    second, told = runs.work(), RecordingSink()
    second.make(sink=told)
    second.assemble()
    assert {name: (runs.kept / name).stat().st_mtime_ns for name in there} == there
    assert content(second.output) == runs.whole()
    begun = next(event for event in told.events if isinstance(event, Progress))
    assert 0 < begun.done < (begun.total or 0)


@pytest.mark.parametrize("damage", ["cut bin", "cut idx", "no idx", "no counts", "cut json", "no json"])
def test_a_shard_that_is_not_whole_is_made_again(runs: Runs, damage: str) -> None:
    runs.work().make()
    how, suffix = damage.split()
    path = runs.kept / f"part-00001.{ {'counts': 'counts.npy'}.get(suffix, suffix) }"
    if how == "no":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    work = runs.work()
    assert [shard.name for shard in work.missing()] == ["part-00001"]
    work.make()
    work.assemble()
    assert content(work.output) == runs.whole()


def test_shards_of_other_text_or_other_rules_are_not_taken(runs: Runs, tokenizer: Tokenizer) -> None:
    runs.work().make()
    everything = len(runs.work().shards)
    assert len(runs.work(special=False).missing()) == everything
    assert len(runs.work(cleaning=(StageSpec("length", {"min_characters": 3}),)).missing()) == everything
    path = runs.text / "b.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("words", "WORDS"), encoding="utf-8")
    missing = runs.work().missing()
    assert 0 < len(missing) < everything
    assert all(any(part.path == path for part in shard.slices) for shard in missing)
    del tokenizer


def test_text_that_changes_while_it_is_read_is_refused(runs: Runs) -> None:
    work = runs.work()
    work.make()
    path = runs.text / "a.txt"
    os.utime(path, ns=(1, 1))
    with pytest.raises(TextError, match=r"a\.txt: changed while it was read"):
        work.assemble()
    assert not (work.output / "statistics.json").exists()


def test_a_shuffle_is_a_permutation_that_its_seed_and_nothing_else_decides(runs: Runs) -> None:
    runs.work().make()
    outputs = [runs.work(seed=seed) for seed in (7, 7, 8)]
    for work in outputs:
        work.assemble()
    first, again, other = (content(work.output) for work in outputs)
    assert first == again == runs.whole(shuffle_seed=7)
    assert first["part-00000.bin"] != other["part-00000.bin"]
    ordered = runs.work()
    ordered.assemble()
    documents = [
        [tuple(dataset[item].tolist()) for item in range(len(dataset))]
        for dataset in map(open_dataset, (ordered.output, outputs[0].output))
    ]
    assert documents[0] != documents[1]
    assert sorted(documents[0]) == sorted(documents[1])
    order = np.random.Generator(np.random.PCG64(7)).permutation(len(documents[0]))
    assert documents[1] == [documents[0][item] for item in order]


def test_what_was_broken_and_what_cleaning_did_is_counted_over_shards_made_apart(runs: Runs) -> None:
    (runs.text / "broken.txt").write_bytes(b"good line\n\xff\xfe\nshort\nanother good line\n")
    cleaning = (StageSpec("length", {"min_characters": 6}),)
    for shard in runs.work(cleaning=cleaning).missing():
        runs.work(cleaning=cleaning).make([shard.name])
    work, skipped, sink = runs.work(cleaning=cleaning), SkipLog(), RecordingSink()
    work.assemble(skipped=skipped, sink=sink)
    assert skipped.count == 1
    assert "broken.txt" in skipped.first[0]
    assert content(work.output) == runs.whole(cleaning=cleaning)
    report = json.loads((work.output / "cleaning.json").read_text())
    assert (report["documents_read"], report["stages"][0]["dropped"]) == (363, 1)
    lines = [event.text for event in sink.events if isinstance(event, Message)]
    assert any("length: 363 documents, 1 dropped" in line for line in lines)


def test_stages_that_compare_documents_are_not_divided(runs: Runs) -> None:
    work = runs.work(cleaning=(StageSpec("exact_duplicates"),))
    assert not work.divisible
    work.make()
    assert list(runs.kept.iterdir()) == []
    work.assemble()
    assert content(work.output) == runs.whole(cleaning=(StageSpec("exact_duplicates"),))


def test_what_the_store_gets_and_what_is_kept_are_the_same_files(runs: Runs) -> None:
    work = runs.work()
    work.make()
    work.assemble()
    for path in work.output.glob("part-*.bin"):
        assert path.samefile(runs.kept / path.name)


def test_special_strings_are_tokens_or_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "a.txt"
    path.write_text("question<sep>answer<eod>more\n")
    found: list[list[int]] = []
    for special in (True, False):
        output = tmp_path / str(special)
        output.mkdir()
        tokenize_corpus([path], tokenizer, output, special_strings=special)
        found.append(open_dataset(output)[0].tolist())
    honoured, escaped = found
    assert honoured.count(tokenizer.sep_id) == 1
    assert honoured.count(tokenizer.eod_id) == 2
    assert escaped.count(tokenizer.sep_id) == 0
    assert escaped.count(tokenizer.eod_id) == 1
    assert tokenizer.decode(escaped[:-1]) == "question<sep>answer<eod>more"


def test_a_file_that_may_be_read_now_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n")
    path.chmod(0o000)
    before = stamp_of(path)
    path.chmod(0o644)

    assert stamp_of(path) != before
    path.chmod(0o000)
    assert stamp_of(path) == before
