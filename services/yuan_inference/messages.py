"""From what engines and models say to messages of the wire."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf import json_format

from yuan_corpus import Tokenizer
from yuan_inference.answering import Answer
from yuan_inference.engine import Engine, FinishReason, Output, TokenLogprob
from yuan_inference.loaded import DTYPES
from yuan_inference.served import Served
from yuan_inference.spelling import spelled
from yuan_rpc.inference.v1 import inference_pb2

REASONS = {
    FinishReason.stop: inference_pb2.FINISH_REASON_STOP,
    FinishReason.length: inference_pb2.FINISH_REASON_LENGTH,
    FinishReason.abort: inference_pb2.FINISH_REASON_ABORT,
}


def logprobs_of(tokenizer: Tokenizer, found: Iterable[TokenLogprob]) -> Iterator[inference_pb2.TokenLogprob]:
    """Yields log-probabilities as messages."""
    for one in found:
        yield inference_pb2.TokenLogprob(
            token_id=one.token,
            logprob=one.logprob,
            rank=one.rank,
            token=spelled(tokenizer, one.token),
            top_logprobs=[
                inference_pb2.TopLogprob(token_id=token, logprob=logprob, token=spelled(tokenizer, token))
                for token, logprob in one.top
            ],
        )


def prompt_logprobs_of(
    tokenizer: Tokenizer, first: int, found: Iterable[TokenLogprob]
) -> Iterator[inference_pb2.TokenLogprob]:
    """Yields those of a whole prompt: its first token has none."""
    yield inference_pb2.TokenLogprob(token_id=first, token=spelled(tokenizer, first))
    yield from logprobs_of(tokenizer, found)


def told_prompt(answer: Answer, output: Output) -> list[inference_pb2.TokenLogprob]:
    """Returns the log-probabilities of a prompt, once, where they were asked for; a prompt of one token has none."""
    ids = answer.request.prompt_ids
    wanted = answer.request.sampling.prompt_logprobs is not None and not answer.prompt_told
    if not wanted or not (output.prompt_logprobs or len(ids) == 1):
        return []
    answer.prompt_told = True
    return list(prompt_logprobs_of(answer.served.engine.loaded.tokenizer, ids[0], output.prompt_logprobs))


@dataclass
class Whole:
    """A whole answer, put together from its outputs.

    Attributes:
        tokenizer: spells tokens.
        completions: by index, as far as they have come.
    """

    tokenizer: Tokenizer
    completions: dict[int, inference_pb2.Completion] = field(default_factory=dict[int, inference_pb2.Completion])

    def add(self, output: Output) -> None:
        """Adds what is new."""
        one = self.completions.setdefault(output.index, inference_pb2.Completion(index=output.index))
        one.text += output.text
        one.token_ids.extend(output.token_ids)
        one.logprobs.extend(logprobs_of(self.tokenizer, output.logprobs))
        if output.finish_reason is not None:
            one.finish_reason = REASONS[output.finish_reason]
            one.stop_reason = output.stop_reason
        if output.score is not None:
            one.cumulative_logprob = output.score

    def response(self, request_id: str, usage: inference_pb2.Usage) -> inference_pb2.GenerateResponse:
        """Returns the answer; the first continuation also in the fields that stand for the only one."""
        found = [self.completions[index] for index in sorted(self.completions)]
        first = found[0] if found else inference_pb2.Completion()
        return inference_pb2.GenerateResponse(
            request_id=request_id,
            text=first.text,
            token_ids=first.token_ids,
            finish_reason=first.finish_reason,
            stop_reason=first.stop_reason,
            usage=usage,
            outputs=found,
        )


def info_of(served: Served) -> inference_pb2.GetModelInfoResponse:
    """Describes a served model."""
    engine = served.engine
    config, weights = engine.loaded.config, engine.loaded.weights
    computed = next((name for name, dtype in DTYPES.items() if dtype == weights.dtype), str(weights.dtype))
    info = inference_pb2.GetModelInfoResponse(
        model=served.wanted.name,
        artifact=served.wanted.artifact,
        dtype="int8" if engine.loaded.int8 else computed,
        device=str(weights.device),
        max_model_len=engine.longest,
        vocab_size=engine.loaded.tokenizer.vocab_size,
        parameters=config.parameter_count(),
        loaded=int(served.loaded),
        max_batch=engine.options.max_batch,
        max_waiting=engine.options.max_waiting,
        adapters=engine.adapters,
        tensor=engine.options.tensor,
        healthy=engine.healthy,
    )
    json_format.ParseDict(config.to_dict(), info.config)
    return info


def load_of(name: str, engine: Engine) -> inference_pb2.Load:
    """Says how busy a model is."""
    load = engine.load
    return inference_pb2.Load(
        model=name,
        num_requests_running=load.running,
        num_requests_waiting=load.waiting,
        kv_cache_usage_perc=load.used_blocks / max(1, load.total_blocks),
        used_blocks=load.used_blocks,
        total_blocks=load.total_blocks,
        max_batch=load.max_running,
        max_waiting=load.max_waiting,
    )
