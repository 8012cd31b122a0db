"""How many tokens a second the engine makes at 1 and at 8 requests at once, against `yuan_model.generate` one by one.

    python benchmarks/serving.py [--threads 2] [--tokens 64] [--rounds 3]

Hidden 512, 8 layers, FFN 1408, vocabulary 8192, fp32, prompts of 64 tokens; weights are random, the same for both,
and so are the greedy tokens, which is checked. Both are measured in turn in each round, so that whatever else the
machine does meets both; the best round counts. Prints the tokens a second and the ratios.
"""

import argparse
import statistics
import threading
import time

import torch

from yuan_corpus import Tokenizer
from yuan_inference.engine import Engine, EngineOptions, Output, Request, Sampling
from yuan_inference.loaded import LoadedModel
from yuan_model import Yuan, YuanConfig, generate, initialize_

PROMPT_TOKENS = 64
CONCURRENCY = (1, 8, 16)


class NoTokenizer:
    """As much of a tokenizer as an engine asks for: tokens are spelled as nothing, which costs nothing."""

    vocab_size = 8192
    eod_id = 8191

    def stream_decoder(self, after: object = ()) -> "NoTokenizer":
        """Returns a decoder."""
        del after
        return self

    def push(self, token: int) -> str:
        """Returns no text."""
        del token
        return ""

    def finish(self) -> str:
        """Returns no text."""
        return ""


def prompts(count: int) -> list[list[int]]:
    """Returns the same random prompts each time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 8191, (count, PROMPT_TOKENS), generator=generator).tolist()


def one_by_one(model: Yuan, count: int, tokens: int) -> tuple[float, list[list[int]]]:
    """Returns tokens a second, and the tokens."""
    started = time.perf_counter()
    made = [list(generate(model, prompt, tokens)) for prompt in prompts(count)]
    return count * tokens / (time.perf_counter() - started), made


def together(engine: Engine, count: int, tokens: int) -> tuple[float, list[list[int]], float]:
    """Returns tokens a second, the tokens, and the median seconds to the first token."""
    made: list[list[int]] = [[] for _ in range(count)]
    first = [0.0] * count
    ended = threading.Semaphore(0)
    started = time.perf_counter()

    def take(number: int, output: Output) -> None:
        made[number].extend(output.token_ids)
        first[number] = first[number] or time.perf_counter() - started
        if output.finish_reason is not None:
            ended.release()

    for number, prompt in enumerate(prompts(count)):
        request = Request(str(number), tuple(prompt), Sampling(max_tokens=tokens, ignore_eos=True))
        engine.submit(request, lambda output, number=number: take(number, output))
    for _ in range(count):
        ended.acquire()
    return count * tokens / (time.perf_counter() - started), made, statistics.median(first)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = YuanConfig(8192, 512, 8, 8, 1408, 1024)
    model = Yuan(config)
    initialize_(model, config, 1)
    tokenizer: Tokenizer = NoTokenizer()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    loaded = LoadedModel(model.eval(), tokenizer)
    print(f"{config.parameter_count() / 1e6:.0f}M parameters, fp32, {options.threads} threads, {options.tokens} tokens")
    with Engine("benchmark", loaded, EngineOptions(max_batch=max(CONCURRENCY))) as engine:
        together(engine, 2, 4)
        one_by_one(model, 1, 4)
        for count in CONCURRENCY:
            plain, batched, waited = 0.0, 0.0, float("inf")
            for _ in range(options.rounds):
                # Sequences do not know each other: one or two of them tell the rate of all.
                rate, expected = one_by_one(model, min(count, 2), options.tokens)
                plain = max(plain, rate)
                rate, made, first = together(engine, count, options.tokens)
                assert made[: len(expected)] == expected, "the engine made other tokens"
                batched, waited = max(batched, rate), min(waited, first)
            print(
                f"{count:3d} at once: engine {batched:7.1f} tokens/s, one by one {plain:6.1f} tokens/s, "
                f"ratio {batched / plain:.2f}; first token after {waited * 1000:.0f} ms"
            )


if __name__ == "__main__":
    main()
