"""The recipes of `configs/pipelines/corpus-*.yaml`, each on a small real sample of its kind of text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import real_texts

from yuan_corpus import Tokenizer, open_dataset
from yuan_data.tokenize_text import tokenize_work
from yuan_data.train_tokenizer import tokenizer_work
from yuan_events import RecordingSink
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.pipeline import load_pipeline
from yuan_manifest.schema import Topology

pytestmark = pytest.mark.slow


def books(folder: Path) -> None:
    for number, chapter in enumerate(real_texts.chinese_chapters()[:25]):
        (folder / f"sanguo-{number}.md").write_text(chapter, encoding="utf-8")
    for number, play in enumerate(real_texts.english_plays()[:3]):
        (folder / f"play-{number}.md").write_text(play, encoding="utf-8")
    (folder / "again.md").write_text(real_texts.chinese_chapters()[3] + "\n", encoding="utf-8")
    (folder / "noise.md").write_text("买买买买买买" * 200, encoding="utf-8")


def encyclopedia(folder: Path) -> None:
    text = real_texts.encyclopedia_article()
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
    records = [{"text": "\n".join(paragraphs[at : at + 4])} for at in range(0, 400, 4)]
    records += [{"text": "See also | Index | Home"}, max(records, key=lambda record: len(record["text"]))]
    (folder / "articles.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def code(folder: Path) -> None:
    for number, module in enumerate(real_texts.python_modules()[:40]):
        (folder / f"module_{number}.py").write_text(module, encoding="utf-8")
    (folder / "broken.py").write_text("def f(:\n    return 1\n" * 20, encoding="utf-8")
    (folder / "licensed.py").write_text(
        f"# Copyright 2001 Someone\n{real_texts.python_modules()[50]}", encoding="utf-8"
    )


def mathematics(folder: Path) -> None:
    shared = Path(__file__).resolve().parents[3] / "shared/data/agieval"
    if not shared.is_dir():
        pytest.skip("the developers' mathematical problems (../shared) are not on this machine")
    rows = [
        json.loads(line)["question"]
        for name in ("gaokao-mathqa", "gaokao-mathcloze")
        for line in (shared / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    rows += [
        "若x²+y²≤4且x₁≠√2，求∑xᵢ的取值范围。",
        "<math><mfrac><mn>1</mn><mn>2</mn></mfrac></math>是多少的一半？请说明理由。",
    ]
    (folder / "problems.jsonl").write_text(
        "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def dialogue(folder: Path) -> None:
    """Speeches of a play: what one says and what the next one answers."""
    lines: list[str] = []
    for play in real_texts.english_plays()[:2]:
        speeches = [" ".join(part.split()) for part in play.split("\n\n") if len(part.split()) > 8]
        lines += [f"{said}[SEP]{answer}" for said, answer in zip(speeches[::2], speeches[1::2], strict=False)]
    lines += ["我的手机是13812345678，你的呢？[SEP]写信到 li@example.com 给我吧。", lines[10]]
    (folder / "talk.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def ran(
    name: str, make: Callable[[Path], None], repository: Path, folder: Path
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Runs a recipe's steps, the tokenizer a small one; returns the documents decoded and what each stage did."""
    texts = folder / "text"
    texts.mkdir()
    try:
        make(texts)
    except real_texts.TextUnavailable as error:
        pytest.skip(str(error))
    overrides = [
        f"tokenizer.inputs.text=[{texts}]", f"tokenize.inputs.text=[{texts}]", "tokenizer.tokenizer.vocab_size=1500",
        "tokenizer.tokenizer.sample_megabytes=0.3", "tokenize.tokenize.workers=1",
    ]  # fmt: skip
    tokenizer, tokenize = load_pipeline(repository / f"configs/pipelines/corpus-{name}.yaml", overrides)[1]
    outputs = [folder / "tokenizer", folder / "dataset"]
    for output in outputs:
        output.mkdir()
    tokenizer_work(WorkContext(tokenizer.job, Topology(), {}, outputs[0], folder, RecordingSink()))
    made = ArtifactHandle("tokenizer", name, 1, outputs[0], "")
    tokenize_work(WorkContext(tokenize.job, Topology(), {"tokenizer": made}, outputs[1], folder, RecordingSink()))
    loaded, dataset = Tokenizer.load(outputs[0]), open_dataset(outputs[1])
    documents = [loaded.decode(dataset[number].tolist()[:-1]) for number in range(len(dataset))]
    stages = json.loads((outputs[1] / "cleaning.json").read_text(encoding="utf-8"))["stages"]
    return documents, {stage["stage"]: stage for stage in stages}


@pytest.fixture
def recipe(repository: Path, tmp_path: Path) -> Callable[..., tuple[list[str], dict[str, dict[str, Any]]]]:
    return lambda name, make: ran(name, make, repository, tmp_path)


Recipe = Callable[..., tuple[list[str], dict[str, dict[str, Any]]]]


def test_books_keep_novel_and_plays_and_lose_noise_and_copies(recipe: Recipe) -> None:
    documents, stages = recipe("books", books)

    assert any("话说天下大势，分久必合，合久必分。" in document for document in documents)
    assert sum("三国" in document or "玄德" in document for document in documents) >= 20
    assert stages["exact_duplicates"]["dropped"] == 1
    assert not any("买买买买买买" in document for document in documents)


def test_an_encyclopedia_keeps_sentences(recipe: Recipe) -> None:
    documents, stages = recipe("encyclopedia", encyclopedia)

    assert len(documents) >= 35
    assert any("Stratford" in document for document in documents)
    assert not any("Index | Home" in document for document in documents)
    assert stages["exact_duplicates"]["dropped"] >= 1


def test_code_that_does_not_compile_and_licences_go(recipe: Recipe) -> None:
    documents, stages = recipe("code", code)

    assert len(documents) >= 35
    assert stages["python_compiles"]["reasons"] == {"does not compile": 1}
    assert stages["licence_header"]["changed"] >= 1
    for document in documents:
        compile(document, "document", "exec", dont_inherit=True)
    assert not any("Copyright 2001 Someone" in document for document in documents)


def test_mathematics_is_latex(recipe: Recipe) -> None:
    documents, stages = recipe("mathematics", mathematics)

    assert len(documents) >= 300
    assert r"若$x^{2}+y^{2}\le 4$且$x_{1}\ne \sqrt{2}$，求$\sum x_{i}$的取值范围。" in documents
    assert r"$\frac{1}{2}$是多少的一半？请说明理由。" in documents
    assert stages["formulas"]["changed"] >= 2
    assert stages["exact_duplicates"]["dropped"] >= 1  # the benchmark has questions twice


def test_dialogue_keeps_its_turns_and_no_numbers_of_people(recipe: Recipe) -> None:
    documents, stages = recipe("dialogue", dialogue)

    assert len(documents) >= 100
    assert all("<sep>" in document for document in documents)
    assert "我的手机是<PHONE>，你的呢？<sep>写信到 <EMAIL> 给我吧。" in documents
    assert stages["exact_duplicates"]["dropped"] >= 1
