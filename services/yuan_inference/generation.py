"""Continues prompts: text in, text out piece by piece. Of jobs it knows no more than the context it is handed."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from yuan_events import InputError, Message, Progress, Text
from yuan_inference.loaded import LoadedModel, load
from yuan_jobs import WorkContext, WorkResult
from yuan_manifest.schema import GenerateJob, SamplingSection
from yuan_model import generate

FinishReason = Literal["stop", "length"]
"""`stop`: an end of document was drawn; `length`: max_tokens, or the end of the context."""


@dataclass(frozen=True)
class Prompt:
    """A prompt that fits.

    Attributes:
        text: as the user gave it.
        ids: its tokens, at least one.
        max_tokens: new tokens at most, cut to what the context leaves.
        note: what the user should know about it; empty if nothing.
    """

    text: str
    ids: list[int]
    max_tokens: int
    note: str = ""


@dataclass(frozen=True)
class Continuation:
    """A continued prompt.

    Attributes:
        prompt: its text.
        text: what the model added.
        prompt_tokens: tokens of the prompt.
        new_tokens: tokens of the added text; an end of document is not counted.
        finish_reason: why it ended.
    """

    prompt: str
    text: str
    prompt_tokens: int
    new_tokens: int
    finish_reason: FinishReason


def prepare(loaded: LoadedModel, text: str, max_tokens: int) -> Prompt:
    """Cuts a prompt into tokens and checks that it fits.

    Raises:
        InputError: if it is empty, or leaves no room for one new token in the context.
    """
    ids = loaded.tokenizer.encode(text)
    if not ids:
        raise InputError("the prompt is empty; a prompt needs at least one token, since the model knows no first one")
    room = loaded.context - len(ids)
    if room < 1:
        raise InputError(
            f"the prompt has {len(ids)} tokens, but the model's context is {loaded.context} tokens and must also hold "
            "the continuation; shorten the prompt"
        )
    if max_tokens <= room:
        return Prompt(text, ids, max_tokens)
    note = (
        f"max_tokens {max_tokens} is cut to {room}: the prompt takes {len(ids)} of {loaded.context} tokens of context"
    )
    return Prompt(text, ids, room, note)


def continue_prompt(
    loaded: LoadedModel, prompt: Prompt, sampling: SamplingSection, on_token: Callable[[str], None]
) -> Continuation:
    """Continues one prompt.

    Args:
        loaded: model and tokenizer.
        prompt: from `prepare`.
        sampling: how tokens are drawn; the same seed gives the same text, whatever was continued before.
        on_token: called after every token with the text that is whole by then, which may be none: never half a
            character. The pieces joined are the continuation's text.
    """
    decoder = loaded.tokenizer.stream_decoder(prompt.ids)
    pieces: list[str] = []
    new_tokens = 0
    for token in generate(
        loaded.model,
        prompt.ids,
        prompt.max_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        seed=sampling.seed,
        stop_token_ids=loaded.end_ids if sampling.stop_at_eod else frozenset(),
        vocabulary=loaded.tokenizer.vocab_size,
    ):
        new_tokens += 1
        pieces.append(decoder.push(token))
        on_token(pieces[-1])
    pieces.append(decoder.finish())
    on_token(pieces[-1])
    reason: FinishReason = "length" if new_tokens == prompt.max_tokens else "stop"
    return Continuation(prompt.text, "".join(pieces), len(prompt.ids), new_tokens, reason)


def generate_work(context: WorkContext[GenerateJob]) -> WorkResult:
    """Continues the prompts of a generate job; leaves `samples.jsonl` (one a line) and `report.json`.

    Every prompt is checked before the first is continued.

    Raises:
        InputError: if the model cannot be loaded or a prompt does not fit it.
        Interrupted: if it was asked to stop.
    """
    job, sink = context.job, context.sink
    loaded = load(context.inputs["model"].path, device=str(context.topology.nodes.device))
    prompts = [_prepared(loaded, number, text, job) for number, text in enumerate(job.inputs.prompts)]
    started = time.monotonic()
    done: list[Continuation] = []
    for number, prompt in enumerate(prompts):
        sink.emit(Progress("generate", number, len(prompts), "prompts"))
        if prompt.note:
            sink.emit(Message(f"inputs.prompts[{number}]: {prompt.note}"))
        sink.emit(Text(number, prompt.text, "prompt"))
        done.append(continue_prompt(loaded, prompt, job.sampling, _emitter(context, number)))
        sink.emit(Text(number, done[-1].finish_reason, "end"))
    sink.emit(Progress("generate", len(prompts), len(prompts), "prompts"))
    summary = _summary(context, done, time.monotonic() - started)
    lines = [json.dumps(asdict(continuation), ensure_ascii=False) + "\n" for continuation in done]
    (context.output / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    report = json.dumps(summary, ensure_ascii=False, indent=2) + "\n"
    (context.output / "report.json").write_text(report, encoding="utf-8")
    return WorkResult(summary)


def _prepared(loaded: LoadedModel, number: int, text: str, job: GenerateJob) -> Prompt:
    try:
        return prepare(loaded, text, job.sampling.max_tokens)
    except InputError as error:
        raise InputError(f"inputs.prompts[{number}]: {error}") from error


def _emitter(context: WorkContext[GenerateJob], number: int) -> Callable[[str], None]:
    def emit(piece: str) -> None:
        if piece:
            context.sink.emit(Text(number, piece))
        context.stop_if_asked()

    return emit


def _summary(context: WorkContext[GenerateJob], done: list[Continuation], seconds: float) -> dict[str, Any]:
    new_tokens = sum(continuation.new_tokens for continuation in done)
    return {
        "model": context.inputs["model"].reference,
        "sampling": asdict(context.job.sampling),
        "prompts": len(done),
        "prompt_tokens": sum(continuation.prompt_tokens for continuation in done),
        "new_tokens": new_tokens,
        "tokens_per_second": new_tokens / seconds if seconds else None,
    }
