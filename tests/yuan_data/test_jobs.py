"""The data service's jobs, as functions and as a user runs them."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yuan_corpus import (
    CorpusError,
    DatasetStatistics,
    Reading,
    TextError,
    Tokenizer,
    TokenizerError,
    open_dataset,
    tokenize_corpus,
)
from yuan_corpus.documents import SkipLog
from yuan_data.text import fingerprint_of_text
from yuan_data.tokenize_text import tokenize_work
from yuan_data.train_tokenizer import tokenizer_work
from yuan_events import Message, RecordingSink
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.schema import (
    DatasetOutputs,
    DocumentMode,
    Kind,
    OnError,
    TokenizeInputs,
    TokenizeJob,
    TokenizerAlgorithm,
    TokenizerFilters,
    TokenizerInputs,
    TokenizerJob,
    TokenizerOutputs,
    TokenizerSection,
    Topology,
)

VOCABULARY = 315


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "狐狸", "跳过", "懒狗", "again"]
    for name in ("a", "b"):
        lines = [" ".join(words[(start * step) % len(words)] for step in range(3, 12)) for start in range(1, 200)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "notes.md").write_text("left out")
    return folder


def tokenizer_job(text: Path, **section: Any) -> TokenizerJob:
    return TokenizerJob(
        kind=Kind.tokenizer,
        name="t",
        inputs=TokenizerInputs(text=[str(text)], exclude=["*.md"]),
        tokenizer=TokenizerSection(vocab_size=VOCABULARY, **section),
        outputs=TokenizerOutputs(tokenizer="small"),
    )


def context(job: Any, output: Path, **inputs: ArtifactHandle) -> WorkContext[Any]:
    output.mkdir()
    return WorkContext(job, Topology(), inputs, output, output.parent, RecordingSink())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, text: Path) -> ArtifactHandle:
    folder = tmp_path_factory.mktemp("work") / "tokenizer"
    tokenizer_work(context(tokenizer_job(text, algorithm=TokenizerAlgorithm.bpe), folder))
    return ArtifactHandle("tokenizer", "small", 1, folder, "")


@pytest.mark.parametrize("algorithm", list(TokenizerAlgorithm))
def test_a_tokenizer_job_fills_its_output_with_a_tokenizer(
    tmp_path: Path, text: Path, algorithm: TokenizerAlgorithm
) -> None:
    work = context(tokenizer_job(text, algorithm=algorithm, sample_megabytes=0.01), tmp_path / "out")
    result = tokenizer_work(work)
    loaded = Tokenizer.load(work.output)

    assert sorted(path.name for path in work.output.iterdir()) == [
        "report.json", "report.svg", "special_tokens.json", "tokenizer.model",
    ]  # fmt: skip
    assert result.summary["vocab_size"] == loaded.vocab_size == VOCABULARY
    assert result.summary["digest"] == loaded.digest
    assert result.summary["files"] == 2
    assert 1 < result.summary["bytes_per_token"] < 10
    assert json.dumps(result.summary)


def test_a_tokenizer_job_merges_models_of_parts_and_reports_how_they_compare(
    tmp_path: Path, text: Path, tokenizer: ArtifactHandle
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("狐狸跳过\nquick\n")
    job = tokenizer_job(
        text, algorithm=TokenizerAlgorithm.unigram, shards=2, shard_vocab_size=300, added_words=[str(words)],
        filters=TokenizerFilters(max_han=4),
    )  # fmt: skip
    job.inputs.tokenizers = ["small"]
    job.inputs.compare = [str(tokenizer.path)]
    work = context(job, tmp_path / "out", **{"tokenizers[0]": tokenizer})
    result = tokenizer_work(work)
    loaded = Tokenizer.load(work.output)
    report = json.loads((work.output / "report.json").read_text(encoding="utf-8"))

    assert result.summary["shards"] == 2
    assert result.summary["digest"] == loaded.digest
    assert loaded.piece(loaded.encode("狐狸跳过")[-1]) == "狐狸跳过"
    assert [shard["pieces"] for shard in report["merging"]["shards"]] == [300, 300]
    assert sum(shard["bytes"] for shard in report["merging"]["shards"]) == result.summary["source_bytes"]
    small = Tokenizer.load(tokenizer.path)
    taken = report["merging"]["taken_over"]["small"]
    assert {small.piece(token) for token in range(VOCABULARY)} <= {
        loaded.piece(token) for token in range(loaded.vocab_size)
    }
    assert 0 < taken < loaded.vocab_size - small.vocab_size + VOCABULARY - 273
    folder = tokenizer.path.name
    for row in report["measures"].values():
        assert list(row) == ["this", "shard 1", "shard 2", "small", folder]
        assert row["small"] == row[folder]
        assert row["this"]["bytes_per_token"] > 1
    assert (work.output / "report.svg").read_text(encoding="utf-8").startswith("<svg")
    assert sorted(path.name for path in work.output.iterdir()) == [
        "report.json", "report.svg", "special_tokens.json", "tokenizer.model",
    ]  # fmt: skip


@pytest.mark.parametrize("shards", [3, 7])
def test_text_is_cut_into_as_many_parts_as_are_asked_for(tmp_path: Path, text: Path, shards: int) -> None:
    job = tokenizer_job(text, algorithm=TokenizerAlgorithm.bpe, shards=shards, shard_vocab_size=300)
    work = context(job, tmp_path / "out")
    tokenizer_work(work)
    sizes = [
        shard["bytes"]
        for shard in json.loads((work.output / "report.json").read_text(encoding="utf-8"))["merging"]["shards"]
    ]

    assert len(sizes) == shards
    assert min(sizes) > 0
    assert sum(sizes) == sum(path.stat().st_size for path in text.glob("*.txt"))


def test_a_tokenizer_that_is_there_is_taken_as_it_is(tmp_path: Path, text: Path, tokenizer: ArtifactHandle) -> None:
    def taken(texts: list[str]) -> TokenizerJob:
        inputs = TokenizerInputs(text=texts, sentencepiece=str(tokenizer.path))
        return TokenizerJob(
            kind=Kind.tokenizer, name="t", inputs=inputs, outputs=TokenizerOutputs(tokenizer="small")
        )  # fmt: skip

    work = context(taken([]), tmp_path / "out")
    result = tokenizer_work(work)
    reported = context(taken([str(text / "a.txt")]), tmp_path / "reported")
    tokenizer_work(reported)

    names = ["special_tokens.json", "tokenizer.model"]
    assert sorted(path.name for path in work.output.iterdir()) == names
    assert all((work.output / name).read_bytes() == (tokenizer.path / name).read_bytes() for name in names)
    assert result.summary["digest"] == Tokenizer.load(tokenizer.path).digest
    assert (reported.output / "report.json").exists()
    missing = taken([])
    missing.inputs.sentencepiece = str(tmp_path / "none")
    with pytest.raises(TokenizerError, match=r"inputs\.sentencepiece: .*/none: no such file; expected a Senten"):
        fingerprint_of_text(missing)


def test_words_and_other_tokenizers_by_path_are_part_of_what_a_job_is(
    tmp_path: Path, text: Path, tokenizer: ArtifactHandle
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("one\n")
    job = tokenizer_job(text, added_words=[str(words)])
    before = fingerprint_of_text(job)
    words.write_text("two\n")
    after = fingerprint_of_text(job)
    job.inputs.compare = [f"{tokenizer.path}/tokenizer.model"]

    assert before != after != fingerprint_of_text(job)
    job.inputs.tokenizers = [f"{tmp_path}/nothing.model"]
    with pytest.raises(TokenizerError, match=r"inputs\.tokenizers\[0\]: .*nothing\.model: no such file"):
        fingerprint_of_text(job)


def test_a_tokenize_job_fills_its_output_with_a_dataset_of_that_tokenizer(
    tmp_path: Path, text: Path, tokenizer: ArtifactHandle
) -> None:
    job = TokenizeJob(
        kind=Kind.tokenize,
        name="d",
        inputs=TokenizeInputs(text=[f"{text}/*.txt"], tokenizer="small"),
        outputs=DatasetOutputs(dataset="d"),
    )
    work = context(job, tmp_path / "out", tokenizer=tokenizer)
    result = tokenize_work(work)
    dataset = open_dataset(work.output)

    assert sorted(path.name for path in work.output.iterdir()) == [
        "part-00000.bin",
        "part-00000.idx",
        "statistics.json",
        "unigram_counts.npy",
    ]
    assert result.summary["documents"] == len(dataset) == 2 * 199
    assert result.summary["tokens"] == dataset.token_count
    assert result.summary["tokenizer_digest"] == Tokenizer.load(tokenizer.path).digest
    assert DatasetStatistics.read(work.output).vocab_size == VOCABULARY
    assert json.dumps(result.summary)
    assert isinstance(work.sink, RecordingSink)
    assert any(isinstance(event, Message) and "398 documents" in event.text for event in work.sink.events)


def test_the_manifest_decides_what_a_document_is(tmp_path: Path, text: Path, tokenizer: ArtifactHandle) -> None:
    job = TokenizeJob(
        kind=Kind.tokenize,
        name="d",
        inputs=TokenizeInputs(text=[f"{text}/*.txt"], documents=DocumentMode.files, tokenizer="small"),
        outputs=DatasetOutputs(dataset="d"),
    )

    assert tokenize_work(context(job, tmp_path / "out", tokenizer=tokenizer)).summary["documents"] == 2


def test_what_is_left_out_as_broken_is_said_with_its_places_and_counted(
    tmp_path: Path, tokenizer: ArtifactHandle
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{x\n{"text": "two"}\n')
    (tmp_path / "b.txt").write_bytes(b"three\n\xff\n")
    job = TokenizeJob(
        kind=Kind.tokenize, name="t",
        inputs=TokenizeInputs(text=[str(tmp_path / "*.*")], on_error=OnError.skip), outputs=DatasetOutputs("d"),
    )  # fmt: skip
    work = context(job, tmp_path / "out", tokenizer=tokenizer)
    tokenize_work(work)
    assert isinstance(work.sink, RecordingSink)
    said = [event.text for event in work.sink.events if isinstance(event, Message)]

    assert "2 broken records or files left out (inputs.on_error: skip):" in said
    assert f"  {tmp_path}/b.txt: not UTF-8 at byte 6 (0xFF)" in said
    report = json.loads((work.output / "cleaning.json").read_text())
    assert (report["documents_read"], report["skipped"]) == (3, 2)


def test_a_stages_files_that_are_missing_or_no_text_are_told_by_its_key(
    tmp_path: Path, tokenizer: ArtifactHandle, text: Path
) -> None:
    (tmp_path / "gbk.txt").write_bytes("这是一段足够长的中文内容。".encode("gbk"))
    job = TokenizeJob(
        kind=Kind.tokenize, name="t", inputs=TokenizeInputs(text=[str(text)]), outputs=DatasetOutputs("d"),
        cleaning=[{"stage": "unicode"}, {"stage": "decontamination", "files": [str(tmp_path / "gone.jsonl")]}],
    )  # fmt: skip
    with pytest.raises(TextError, match=rf"^cleaning\[1\]\.files: {tmp_path}/gone\.jsonl: no such file"):
        fingerprint_of_text(job)
    job.cleaning[1]["files"] = [str(tmp_path / "gbk.txt")]
    problem = rf"^cleaning\[1\]\.files: {tmp_path}/gbk\.txt: not UTF-8 at byte 0 \(0xD5\); mend it, or name another$"
    with pytest.raises(CorpusError, match=problem):
        tokenize_work(context(job, tmp_path / "out", tokenizer=tokenizer))


def test_a_file_that_cannot_be_read_is_left_out_and_named_where_that_is_wanted_and_another_once_it_can_be(
    tmp_path: Path, tokenizer: ArtifactHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(f"text of {name}\n")
    job = TokenizeJob(
        kind=Kind.tokenize, name="t",
        inputs=TokenizeInputs(text=[str(tmp_path / "*.*")], on_error=OnError.skip), outputs=DatasetOutputs("d"),
    )  # fmt: skip
    whole = fingerprint_of_text(job)
    opened = Path.open

    def fail(path: Path, *args: Any, **options: Any) -> Any:
        if path.name in ("b.txt", "c.md"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", fail)
        without = fingerprint_of_text(job)
        work = context(job, tmp_path / "out", tokenizer=tokenizer)
        result = tokenize_work(work)
        job.inputs.on_error = OnError.fail
        with pytest.raises(TextError, match=r"b\.txt: cannot be read \(Permission denied\)"):
            fingerprint_of_text(job)
        with pytest.raises(TextError, match=r"b\.txt: cannot be read \(Permission denied\)"):
            tokenize_work(context(job, tmp_path / "refused", tokenizer=tokenizer))
    assert isinstance(work.sink, RecordingSink)
    said = [event.text for event in work.sink.events if isinstance(event, Message)]

    assert (result.summary["documents"], result.summary["skipped"]) == (1, 2)
    assert {f"  {tmp_path}/{name}: cannot be read (Permission denied)" for name in ("b.txt", "c.md")} <= set(said)
    job.inputs.on_error = OnError.skip
    assert without != whole == fingerprint_of_text(job)


def test_a_file_that_vanishes_is_left_out_and_named_where_that_is_wanted(
    tmp_path: Path, tokenizer: ArtifactHandle
) -> None:
    there, gone = tmp_path / "a.txt", tmp_path / "b.txt"
    there.write_text("text\n")
    output = tmp_path / "out"
    output.mkdir()
    cut = Tokenizer.load(tokenizer.path)
    skipped = SkipLog()
    tokenize_corpus([there, gone], cut, output, reading=Reading(skip_broken=True), skipped=skipped)

    assert skipped == SkipLog(1, [f"{gone}: no such file"])
    with pytest.raises(TextError, match="no such file"):
        tokenize_corpus([there, gone], cut, output)


def test_changed_text_has_another_fingerprint_and_moved_text_the_same(tmp_path: Path, text: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in text.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    before = fingerprint_of_text(tokenizer_job(text))

    assert fingerprint_of_text(tokenizer_job(moved)) == before
    (moved / "notes.md").write_text("left out, so it does not matter")
    assert fingerprint_of_text(tokenizer_job(moved)) == before
    (moved / "a.txt").write_text("changed")
    assert fingerprint_of_text(tokenizer_job(moved)) != before


def test_a_stage_of_ones_own_whose_code_has_changed_is_a_new_job(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "stages_of_mine.py"
    module.write_text("class A: ...")
    monkeypatch.syspath_prepend(tmp_path)
    job = TokenizeJob(
        kind=Kind.tokenize, name="t", inputs=TokenizeInputs(text=[str(text)]),
        cleaning=[{"stage": "stages_of_mine:A"}, {"stage": "not_there:B"}],
    )  # fmt: skip
    before = fingerprint_of_text(job)

    assert fingerprint_of_text(job) == before
    module.write_text("class A: pass")
    assert fingerprint_of_text(job) != before


def test_no_text_is_said_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="this folder has no files"):
        fingerprint_of_text(tokenizer_job(tmp_path))


def run(manifest: Path, home: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yuan_data", "run", manifest, *overrides],
        env=os.environ | {"YUAN_HOME": str(home)},
        cwd=manifest.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def write_manifests(folder: Path, text: Path) -> tuple[Path, Path]:
    tokenizer, dataset = folder / "tokenizer.yaml", folder / "dataset.yaml"
    tokenizer.write_text(
        f"version: 1\nkind: tokenizer\nname: t\ninputs: {{text: ['{text}/*.txt']}}\n"
        f"tokenizer: {{algorithm: bpe, vocab_size: {VOCABULARY}}}\noutputs: {{tokenizer: small}}\n"
    )
    dataset.write_text(
        f"version: 1\nkind: tokenize\nname: d\ninputs: {{text: ['{text}/*.txt'], tokenizer: small}}\n"
        "tokenize: {workers: 2}\noutputs: {dataset: small}\n"
    )
    return tokenizer, dataset


def test_both_jobs_run_from_the_command_line_and_publish_artifacts(tmp_path: Path, text: Path) -> None:
    manifests = write_manifests(tmp_path, text)
    home = tmp_path / "home"
    for manifest in manifests:
        done = run(manifest, home)
        assert done.returncode == 0, done.stderr

    (dataset,) = (home / "store" / "dataset").rglob("statistics.json")
    assert len(open_dataset(dataset.parent)) == 2 * 199


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("inputs.text=[nowhere]", "nowhere: no such file or folder"),
        (
            "tokenizer.vocab_size=60000",
            "tokenizer.vocab_size: 60000 is more than this text has pieces for; the largest",
        ),
        ("inputs.text=[latin.py]", "latin.py: not UTF-8 at byte 5 (0xE9)"),
        ("inputs.text=[empty.txt]", "empty.txt is empty"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, text: Path, override: str, words: str) -> None:
    manifest, _ = write_manifests(tmp_path, text)
    (tmp_path / "latin.py").write_bytes("x = 'é'".encode("latin-1"))
    (tmp_path / "empty.txt").touch()
    done = run(manifest, tmp_path / "home", override)

    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if words in line]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
