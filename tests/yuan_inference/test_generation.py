"""Prompts in, text out: what is checked, what streams, what a generate job leaves behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tiny_models import CONTEXT, make_model

from yuan_events import InputError, Interrupted, Message, RecordingSink, Text
from yuan_inference.generation import continue_prompt, generate_work, prepare
from yuan_inference.loaded import LoadedModel, load
from yuan_jobs import ArtifactHandle, WorkContext
from yuan_manifest.schema import GenerateInputs, GenerateJob, Kind, ReportOutputs, SamplingSection, Topology
from yuan_model import generate

PROMPTS = ["shall I compare", "你好", "naïve x"]


def context_for(
    model: Path, folder: Path, prompts: list[str], should_stop: Callable[[], bool] = lambda: False, **sampling: object
) -> tuple[WorkContext[GenerateJob], RecordingSink]:
    output, sink = folder / "output", RecordingSink()
    output.mkdir()
    job = GenerateJob(
        kind=Kind.generate,
        name="test",
        inputs=GenerateInputs(model="tiny", prompts=prompts),
        sampling=SamplingSection(**{"max_tokens": 12, **sampling}),
        outputs=ReportOutputs(report="tiny"),
    )
    handle = ArtifactHandle("model", "tiny", 3, model, digest="")
    return WorkContext(job, Topology(), {"model": handle}, output, folder, sink, should_stop), sink


def test_a_job_streams_every_continuation_and_leaves_them_in_its_report(model_folder: Path, tmp_path: Path) -> None:
    context, sink = context_for(model_folder, tmp_path, PROMPTS)
    result = generate_work(context)
    samples = [json.loads(line) for line in (context.output / "samples.jsonl").read_text("utf-8").splitlines()]
    assert [sample["prompt"] for sample in samples] == PROMPTS
    for number, sample in enumerate(samples):
        events = [event for event in sink.events if isinstance(event, Text) and event.stream == number]
        assert [event.kind for event in events] == ["prompt", *["text"] * (len(events) - 2), "end"]
        assert events[0].text == sample["prompt"]
        assert "".join(event.text for event in events[1:-1]) == sample["text"]
        assert events[-1].text == sample["finish_reason"]
    report = json.loads((context.output / "report.json").read_text("utf-8"))
    assert report == result.summary
    assert report["model"] == "model/tiny@3"
    assert report["prompts"] == 3
    assert report["new_tokens"] == sum(sample["new_tokens"] for sample in samples) > 12


def test_a_continuation_is_the_greedy_one_of_the_model_spelled_after_the_prompt(loaded: LoadedModel) -> None:
    prompt = prepare(loaded, "shall I compare thee", 10)
    pieces: list[str] = []
    done = continue_prompt(loaded, prompt, SamplingSection(stop_at_eod=False), pieces.append)
    ids = list(prompt.ids)
    for _ in range(10):
        ids.append(int(loaded.model(torch.tensor([ids]))[0, -1].argmax()))
    assert prompt.text + done.text == loaded.tokenizer.decode(ids)
    assert "".join(pieces) == done.text
    assert (done.new_tokens, done.finish_reason) == (10, "length")


def test_no_piece_of_streamed_text_is_half_a_character(loaded: LoadedModel) -> None:
    seen = ""
    for seed in range(20):  # a hot model of 256 byte pieces among 360 draws many broken and some whole characters
        pieces: list[str] = []
        sampling = SamplingSection(temperature=5.0, seed=seed, stop_at_eod=False)
        done = continue_prompt(loaded, prepare(loaded, "你好", 40), sampling, pieces.append)
        assert "".join(pieces) == done.text
        seen += done.text
    assert any(ord(character) > 127 and character != "\ufffd" for character in seen)


def test_a_seed_repeats_a_continuation_whatever_was_continued_before(loaded: LoadedModel) -> None:
    sampling = SamplingSection(temperature=1.0, seed=9)
    prompt = prepare(loaded, "compare", 20)
    first = continue_prompt(loaded, prompt, sampling, len)
    continue_prompt(loaded, prepare(loaded, "thee", 20), sampling, len)
    assert continue_prompt(loaded, prompt, sampling, len) == first
    other = continue_prompt(loaded, prompt, SamplingSection(temperature=1.0, seed=10), len)
    assert other.text != first.text


def test_an_end_of_document_ends_a_continuation_and_is_not_in_its_text(
    loaded: LoadedModel, tmp_path: Path, tokenizer_folder: Path
) -> None:
    prompt = prepare(loaded, "compare", 20)
    drawn = list(generate(loaded.model, prompt.ids, 20))
    end = drawn[6]
    make_model(tmp_path / "model", end)  # the same weights; what was the seventh token now ends a document
    other = load(tmp_path / "model", tokenizer_folder)
    stopped = continue_prompt(other, prompt, SamplingSection(), len)
    assert (stopped.new_tokens, stopped.finish_reason) == (drawn.index(end), "stop")
    going_on = continue_prompt(other, prompt, SamplingSection(stop_at_eod=False), len)
    assert (going_on.new_tokens, going_on.finish_reason) == (20, "length")
    assert going_on.text.startswith(stopped.text)


def test_an_empty_prompt_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(InputError, match="the prompt is empty; a prompt needs at least one token"):
        prepare(loaded, "", 5)


def test_a_prompt_that_fills_the_context_is_refused_with_both_numbers(loaded: LoadedModel) -> None:
    text = "q7" * CONTEXT
    count = len(loaded.tokenizer.encode(text))
    assert count >= CONTEXT
    with pytest.raises(InputError, match=rf"the prompt has {count} tokens, but the model's context is {CONTEXT}"):
        prepare(loaded, text, 5)


def test_max_tokens_is_cut_to_what_the_context_leaves_and_says_so(model_folder: Path, tmp_path: Path) -> None:
    context, sink = context_for(model_folder, tmp_path, ["day"], max_tokens=1000, stop_at_eod=False)
    result = generate_work(context)
    taken = result.summary["prompt_tokens"]
    assert result.summary["new_tokens"] == CONTEXT - taken
    notes = [event.text for event in sink.events if isinstance(event, Message)]
    assert notes == [
        f"inputs.prompts[0]: max_tokens 1000 is cut to {CONTEXT - taken}: "
        f"the prompt takes {taken} of {CONTEXT} tokens of context"
    ]


def test_every_prompt_is_checked_before_the_first_is_continued(model_folder: Path, tmp_path: Path) -> None:
    context, sink = context_for(model_folder, tmp_path, ["day", "day", ""])
    with pytest.raises(InputError, match=r"^inputs.prompts\[2\]: the prompt is empty"):
        generate_work(context)
    assert not sink.events


def test_a_job_that_is_asked_to_stop_stops_between_tokens(model_folder: Path, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    context, sink = context_for(model_folder, tmp_path, ["day"], lambda: next(asked), stop_at_eod=False)
    with pytest.raises(Interrupted):
        generate_work(context)
    assert len([event for event in sink.events if isinstance(event, Text)]) <= 4


def test_a_model_without_a_tokenizer_is_refused_with_the_mend(
    tmp_path: Path, model_folder: Path, tokenizer_folder: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model_folder, bare, ignore=shutil.ignore_patterns("tokenizer"))
    with pytest.raises(InputError, match=r"has no tokenizer/tokenizer.model; .*--tokenizer"):
        load(bare)
    assert load(bare, tokenizer_folder).context == CONTEXT


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    make_model(tmp_path / "small", 1, vocab_size=100)
    with pytest.raises(InputError, match="the tokenizer has 360 ids and the model only 100"):
        load(tmp_path / "small", tokenizer_folder)


def test_rows_that_pad_the_vocabulary_are_never_drawn(tmp_path: Path, tokenizer_folder: Path) -> None:
    make_model(tmp_path / "padded", 1, vocab_size=4000)
    loaded = load(tmp_path / "padded", tokenizer_folder)
    sampling = SamplingSection(temperature=100.0, stop_at_eod=False)
    done = continue_prompt(loaded, prepare(loaded, "day", 50), sampling, len)  # an id of 360 or more would be refused
    assert done.new_tokens == 50
