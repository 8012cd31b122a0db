"""Perplexity on the validation part is what a loop over its tokens gives, beside the unigram model's."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tiny_models import CONTEXT, make_dataset, make_model, make_tokenizer, write_text
from torch.nn import functional

from yuan_corpus import PackedDataset, Tokenizer, open_dataset, split_bounds
from yuan_evaluator.evaluation import evaluate_work
from yuan_events import InputError, Interrupted, Message, Progress, RecordingSink
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.schema import DataSection, EvaluateInputs, EvaluateJob, Kind, ReportOutputs, Topology
from yuan_model import load_model

SPLIT = [0.8, 0.1, 0.1]
LENGTH = 20


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("evaluation")
    text = write_text(root / "text.txt")
    tokenizer = make_tokenizer(root / "tokenizer", text)
    make_dataset(root / "dataset", text, tokenizer)
    make_model(root / "model", tokenizer.eod_id)
    shutil.copytree(root / "tokenizer", root / "model" / "tokenizer")
    return {"dataset": root / "dataset", "model": root / "model", "tokenizer": root / "tokenizer"}


def context_for(
    folders: dict[str, Path], output: Path, *, samples: int = 4, length: int = LENGTH, stop: bool = False
) -> tuple[WorkContext[EvaluateJob], RecordingSink]:
    sink = RecordingSink()
    output.mkdir(exist_ok=True)
    job = EvaluateJob(
        kind=Kind.evaluate,
        name="test",
        inputs=EvaluateInputs(model="tiny", dataset="tiny"),
        data=DataSection(sequence_length=length, split=SPLIT),
        samples=samples,
        outputs=ReportOutputs(report="tiny"),
    )
    handles = {kind: ArtifactHandle(kind, "tiny", 1, folders[kind], digest="") for kind in ("model", "dataset")}
    return WorkContext(job, Topology(), handles, output, output, sink, lambda: stop), sink


def test_loss_and_baseline_are_those_of_a_loop_over_the_validation_tokens(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    context, sink = context_for(folders, tmp_path / "out")
    summary = evaluate_work(context).summary

    dataset = open_dataset(folders["dataset"])
    first, last = split_bounds(SPLIT, len(dataset))[1:3]
    packed = PackedDataset(dataset, range(first, last), 4, LENGTH, 1234)
    model = load_model(folders["model"])
    seen: list[int] = [int(token) for document in range(first) for token in dataset[document]]
    losses: list[float] = []
    unigram: list[float] = []
    for index in range(4):
        tokens = torch.from_numpy(packed[index])
        logits = model(tokens[None, :-1])[0]
        for position, target in enumerate(tokens[1:].tolist()):
            losses.append(functional.cross_entropy(logits[position], torch.tensor(target)).item())
            unigram.append(-math.log((seen.count(target) + 1) / (len(seen) + model.config.vocab_size)))
    assert summary["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert summary["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    assert summary["unigram_loss"] == pytest.approx(np.mean(unigram), rel=1e-6)
    assert (summary["tokens"], summary["samples"]) == (4 * LENGTH, 4)

    report = json.loads((context.output / "report.json").read_text())
    assert report["suite"]["perplexity"] == summary
    assert (report["model"], report["dataset"]) == ("model/tiny@1", "dataset/tiny@1")
    progress = [event for event in sink.events if isinstance(event, Progress)]
    assert (progress[0].done, progress[-1].done) == (0, 4)


def test_no_token_is_scored_twice_however_many_samples_are_asked_for(folders: dict[str, Path], tmp_path: Path) -> None:
    context, sink = context_for(folders, tmp_path / "out", samples=10_000)
    summary = evaluate_work(context).summary
    dataset = open_dataset(folders["dataset"])
    first, last = split_bounds(SPLIT, len(dataset))[1:3]
    held = int(dataset.lengths[first:last].sum())
    assert summary["samples"] == (held - 1) // LENGTH
    notes = [event.text for event in sink.events if isinstance(event, Message)]
    assert notes == [f"the validation part holds {summary['samples']} samples of {LENGTH} tokens, not 10000"]


def test_a_sample_longer_than_the_context_is_refused_with_both_numbers(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"data.sequence_length: {CONTEXT + 1} is more than .* {CONTEXT} tokens"):
        evaluate_work(context_for(folders, tmp_path / "out", length=CONTEXT + 1)[0])


def test_a_validation_part_shorter_than_a_sample_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    short = tmp_path / "dataset"
    text = tmp_path / "text.txt"
    text.write_text("day\n" * 10)
    make_dataset(short, text, Tokenizer.load(folders["tokenizer"]))
    with pytest.raises(InputError, match=r"the validation part \(1 documents\) holds \d tokens, a sample 21"):
        evaluate_work(context_for({**folders, "dataset": short}, tmp_path / "out")[0])


def test_a_dataset_of_another_tokenizer_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(write_text(text).read_text().upper())
    other = make_tokenizer(tmp_path / "tokenizer", text)
    make_dataset(tmp_path / "dataset", text, other)
    with pytest.raises(InputError, match="cut by different tokenizers"):
        evaluate_work(context_for({**folders, "dataset": tmp_path / "dataset"}, tmp_path / "out")[0])
    make_model(tmp_path / "small", 1, vocab_size=100)
    with pytest.raises(InputError, match="the dataset has 360 ids, the model 100"):
        evaluate_work(context_for({**folders, "model": tmp_path / "small"}, tmp_path / "out")[0])


def test_an_evaluation_that_is_asked_to_stop_stops(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        evaluate_work(context_for(folders, tmp_path / "out", stop=True)[0])
