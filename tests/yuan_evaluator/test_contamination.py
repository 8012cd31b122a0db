"""What of a benchmark was in a model's training text is found through its lineage, and nothing else is."""

import shutil
from pathlib import Path

import pytest
from tests.tiny_models import make_dataset, make_tokenizer, write_text

from yuan_evaluator import contamination
from yuan_events import InputError, RecordingSink
from yuan_jobs import ArtifactHandle

SEEN = "小明有三个苹果，小红又给了他五个苹果，请问现在小明一共有多少个苹果？"
UNSEEN = "一列火车每小时行驶八十公里，从甲地到乙地需要六小时，两地相距多远？"


def handle(kind: str, name: str, folder: Path, **inputs: str) -> ArtifactHandle:
    metadata = {"inputs": {key: {"artifact": value} for key, value in inputs.items()}}
    return ArtifactHandle(kind, name, 1, folder, "", metadata)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ArtifactHandle]:
    """A model that was made from a model that was trained on a dataset."""
    root = tmp_path_factory.mktemp("lineage")
    text = write_text(root / "text.txt")
    with text.open("a", encoding="utf-8") as file:
        file.write(f"练习：{SEEN.replace('，', ' ')}答案是八。\n")
    tokenizer = make_tokenizer(root / "tokenizer", text)
    make_dataset(root / "dataset", text, tokenizer)
    for name in ("base", "tuned"):
        (root / name).mkdir()
        shutil.copytree(root / "tokenizer", root / name / "tokenizer")
    found = [
        handle("dataset", "text", root / "dataset", tokenizer="tokenizer/t@1"),
        handle("tokenizer", "t", root / "tokenizer"),
        handle("model", "base", root / "base", **{"tokenizer": "tokenizer/t@1", "datasets[0].name": "dataset/text@1"}),
        handle("model", "tuned", root / "tuned", model="model/base@1"),
    ]
    return {one.reference: one for one in found}


def test_a_question_in_the_training_text_of_the_model_before_is_found_whatever_its_punctuation(
    store: dict[str, ArtifactHandle],
) -> None:
    sink = RecordingSink()
    lineage = contamination.lineage(store["model/tuned@1"], store.__getitem__)
    assert list(lineage.datasets) == ["dataset/text@1"]
    assert lineage.unknown == ()
    questions = {"one": [("a", SEEN), ("b", UNSEEN), ("c", "太短了")], "other": [("d", UNSEEN), ("e", f"背景。{SEEN}")]}
    seen = contamination.find_seen(questions, lineage, sink, lambda: None)
    assert (seen["one"].items, seen["one"].too_short, seen["one"].total) == ({"a"}, 1, 3)
    assert (seen["other"].items, seen["other"].too_short, seen["other"].total) == ({"e"}, 0, 2)


def test_what_is_not_known_of_the_lineage_is_said(store: dict[str, ArtifactHandle], tmp_path: Path) -> None:
    foreign = handle("model", "foreign", tmp_path)
    assert contamination.lineage(foreign, store.__getitem__).unknown == (
        "model/foreign@1 does not say what it was trained on",
    )

    def gone(reference: str) -> ArtifactHandle:
        raise InputError(f"artifact {reference}: there is none")

    lineage = contamination.lineage(store["model/base@1"], gone)
    assert lineage.unknown == ("artifact dataset/text@1: there is none",)
    assert not lineage.datasets
