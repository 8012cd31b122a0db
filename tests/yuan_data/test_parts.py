"""A tokenize job handed out in parts, as functions."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.yuan_data.test_jobs import context, text, tokenizer  # noqa: F401 - fixtures

from yuan_data.tokenize_text import tokenize_part, tokenize_work
from yuan_jobs import UNFINISHED, ArtifactHandle
from yuan_manifest.schema import DatasetOutputs, Kind, TokenizeInputs, TokenizeJob, TokenizeSection


@pytest.fixture
def job(tmp_path: Path) -> TokenizeJob:
    (tmp_path / "text").mkdir()
    for name in ("a", "b", "c"):  # a file that is read from its beginning is no more than one shard
        (tmp_path / "text" / f"{name}.csv").write_text("text\n" + f"{name} quick brown fox\n" * 40_000)
    return TokenizeJob(
        kind=Kind.tokenize,
        name="d",
        inputs=TokenizeInputs(text=[str(tmp_path / "text")], tokenizer="small"),
        tokenize=TokenizeSection(workers=1, shard_mib=1),
        outputs=DatasetOutputs(dataset="small"),
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_parts_done_by_others_come_to_the_same_dataset(
    tmp_path: Path,
    job: TokenizeJob,
    tokenizer: ArtifactHandle,  # noqa: F811
) -> None:
    alone = context(job, tmp_path / "alone", tokenizer=tokenizer)
    expected = tokenize_work(replace(alone, run=tmp_path / "other-run"))
    first = replace(context(job, tmp_path / "first", tokenizer=tokenizer), divisible=True)
    parts = tokenize_work(first).parts
    assert list(parts) == ["part-00000", "part-00001"]
    assert list((tmp_path / "first").iterdir()) == []
    for part in parts:
        result = tokenize_part(replace(context(job, tmp_path / part, tokenizer=tokenizer), part=part))
        assert result.summary == {"shard": part}
        assert list((tmp_path / part).iterdir()) == []
    last = tokenize_work(replace(context(job, tmp_path / "last", tokenizer=tokenizer), divisible=True))
    assert last.parts == ()
    assert last.summary == expected.summary
    assert files(tmp_path / "last") == files(tmp_path / "alone")
    assert (tmp_path / UNFINISHED).is_dir()


def test_with_one_shard_left_nothing_is_handed_out(
    tmp_path: Path,
    job: TokenizeJob,
    tokenizer: ArtifactHandle,  # noqa: F811
) -> None:
    tokenize_part(replace(context(job, tmp_path / "part", tokenizer=tokenizer), part="part-00001"))
    assert tokenize_work(replace(context(job, tmp_path / "out", tokenizer=tokenizer), divisible=True)).parts == ()
