"""How fast the engine serves, each number beside what it is measured against, in one run on this machine.

    python benchmarks/serving.py [--threads 2] [--tokens 64] [--rounds 3] [--quick]

Weights are random, prompts have 64 tokens, decoding is greedy, and each pair is measured in turn so that whatever else
the machine does meets both; the best round counts. Peers: `transformers` generate on a Llama of the same sizes (30M
parameters, tied; ours carries the localized filter's 17 % more), in this environment if it is installed there (extra
`bench`), and numbers of llama.cpp and vLLM's CPU build that were measured once on a machine like this (2 cores; named
as quoted). Without --quick it also sends 10,000 requests and looks at the process's memory.
"""

import argparse
import ctypes
import gc
import importlib.util
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from yuan_corpus import Tokenizer
from yuan_inference.engine import Engine, EngineOptions, Output, Request, Sampling
from yuan_inference.loaded import LoadedModel
from yuan_model import BLOCK_TOKENS, Chunk, NativeRunner, PoolSize, Yuan, YuanConfig, initialize_, native_library

PROMPT_TOKENS = 64
SMALL = YuanConfig(8192, 512, 8, 8, 1408, 4096)
LARGE = YuanConfig(8192, 1024, 13, 16, 2816, 1024)
QUOTED = {"llama.cpp bf16": {1: 418, 16: 1672}, "vLLM CPU bf16": {1: 102, 16: 1052, 64: 1788}}
"""Tokens a second at so many requests at once, measured once on 2 cores of a machine like this."""


class NoTokenizer:
    """As much of a tokenizer as an engine asks for: tokens are spelled as nothing."""

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


def made(config: YuanConfig, dtype: torch.dtype, *, int8: bool = False) -> LoadedModel:
    """Returns a model with random weights."""
    model = Yuan(config)
    initialize_(model, config, 1)
    tokenizer: Tokenizer = NoTokenizer()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    return LoadedModel(model.to(dtype).eval(), tokenizer, int8=int8)


def prompts(count: int, length: int = PROMPT_TOKENS, seed: int = 1) -> list[list[int]]:
    """Returns the same random prompts each time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 8191, (count, length), generator=generator).tolist()


def served(engine: Engine, asked: Sequence[Sequence[int]], tokens: int) -> tuple[float, list[list[int]], float]:
    """Returns seconds for all, the tokens, and the median seconds to the first token."""
    answers: list[list[int]] = [[] for _ in asked]
    first = [0.0] * len(asked)
    ended = threading.Semaphore(0)
    started = time.perf_counter()

    def take(number: int, output: Output) -> None:
        answers[number].extend(output.token_ids)
        first[number] = first[number] or time.perf_counter() - started
        if output.last:
            ended.release()

    for number, prompt in enumerate(asked):
        request = Request(f"{number}", tuple(prompt), Sampling(max_tokens=tokens, ignore_eos=True))
        engine.submit(request, lambda output, number=number: take(number, output))
    for _ in asked:
        ended.acquire()
    return time.perf_counter() - started, answers, statistics.median(first)


def llama(dtype: torch.dtype) -> Callable[[int, int], float] | None:
    """Returns what measures `transformers` generate in tokens a second; None where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    import transformers  # noqa: PLC0415 - a peer, not a dependency

    config = transformers.LlamaConfig(
        vocab_size=SMALL.vocab_size,
        hidden_size=SMALL.hidden_size,
        intermediate_size=SMALL.intermediate_size,
        num_hidden_layers=SMALL.num_hidden_layers,
        num_attention_heads=SMALL.num_attention_heads,
        max_position_embeddings=SMALL.max_position_embeddings,
        tie_word_embeddings=True,
    )
    model: Any = transformers.LlamaForCausalLM(config).to(dtype).eval()
    model.generation_config.pad_token_id = 0

    def measure(count: int, tokens: int) -> float:
        ids = torch.tensor(prompts(count))
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
        return count * tokens / (time.perf_counter() - started)

    return measure


def bandwidth(threads: int) -> float:
    """Returns the bytes a second that reading memory reaches here."""
    memory = torch.ones(1 << 27)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        native_library().yuan_read(ctypes.c_void_p(memory.data_ptr()), memory.numel() * 4, threads)
        best = max(best, memory.numel() * 4 / (time.perf_counter() - started))
    return best


def throughput(options: argparse.Namespace) -> None:
    """The small model at 1, 8, 16 and 64 requests at once, beside transformers and quoted numbers."""
    for name, dtype, int8 in (
        ("fp32", torch.float32, False),
        ("bf16", torch.bfloat16, False),
        ("int8", torch.bfloat16, True),
    ):
        peer = None if int8 else llama(dtype)
        with Engine(name, made(SMALL, dtype, int8=int8), EngineOptions(max_batch=64, prefix_cache=False)) as engine:
            served(engine, prompts(2), 4)
            for count in (1, 8, 16, 64):
                ours, theirs, first = 0.0, 0.0, float("inf")
                for _ in range(options.rounds):
                    seconds, _, waited = served(engine, prompts(count), options.tokens)
                    ours, first = max(ours, count * options.tokens / seconds), min(first, waited)
                    if peer is not None and count <= 16:
                        theirs = max(theirs, peer(count, options.tokens))
                beside = [f"transformers {theirs:.0f} (x{ours / theirs:.2f})"] if theirs else []
                if name == "bf16":
                    beside += [
                        f"{peer_name} {rates[count]} quoted (x{ours / rates[count]:.2f})"
                        for peer_name, rates in QUOTED.items()
                        if count in rates
                    ]
                print(
                    f"30M {name}, {count:2d} at once: {ours:7.0f} tokens/s, first token after {first * 1000:.0f} ms; "
                    + ", ".join(beside),
                    flush=True,
                )
        gc.collect()


def against_memory(options: argparse.Namespace) -> None:
    """A 200M model, one request: how much of the memory's bandwidth a step reaches, and what int8 gains and costs."""
    size = PoolSize(LARGE.max_position_embeddings // BLOCK_TOKENS, 1, 256, 256)
    model = made(LARGE, torch.bfloat16).model
    count = LARGE.parameter_count()
    prompt = prompts(1, 256)[0]
    runners = {"bf16": NativeRunner(model, size), "int8": NativeRunner(model, size, int8=True)}
    scores: dict[str, torch.Tensor] = {}
    best = dict.fromkeys(runners, float("inf"))
    for name, runner in runners.items():
        runner.place(0, 0, range(size.blocks))
        scores[name] = runner.step([Chunk(prompt, 0, 256, 0, 256)]).log_softmax(-1)
    reached = bandwidth(options.threads)
    for _ in range(20 * options.rounds):
        for name, runner in runners.items():
            for position in (200, 201):
                started = time.perf_counter()
                runner.step([Chunk(prompt, position, position + 1, 0)])
                best[name] = min(best[name], time.perf_counter() - started)
    reached = max(reached, bandwidth(options.threads))
    share = 2 * count / best["bf16"] / reached
    print(
        f"{count / 1e6:.0f}M bf16, 1 request: {1 / best['bf16']:.1f} tokens/s; reads its weights at "
        f"{2 * count / best['bf16'] / 1e9:.1f} GB/s of {reached / 1e9:.1f} GB/s measured ({share:.2f})"
    )
    error = (scores["bf16"] - scores["int8"]).abs()
    same = (scores["bf16"].argmax(-1) == scores["int8"].argmax(-1)).float().mean()
    print(
        f"{count / 1e6:.0f}M int8, 1 request: {1 / best['int8']:.1f} tokens/s "
        f"(x{best['bf16'] / best['int8']:.2f} bf16); "
        f"log-probabilities differ by {error.mean():.4f} in the mean, likeliest token the same at {same:.0%}"
    )


def beside_a_long_prompt() -> None:
    """In how many steps a short request has its first token, alone and beside a prompt of 2,000 tokens."""
    with Engine("ttft", made(SMALL, torch.bfloat16), EngineOptions(max_batch=4, prefix_cache=False)) as engine:
        inner = engine._stepper.runner
        steps: list[list[Chunk]] = []

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def step(self, chunks: Sequence[Chunk]) -> torch.Tensor:
                steps.append(list(chunks))
                return inner.step(chunks)

        engine._stepper.runner = Counting()  # type: ignore[assignment]  # pyright: ignore
        short = prompts(1, 16, seed=3)[0]
        _, _, idle = served(engine, [short], 1)
        alone = len(steps)
        steps.clear()
        ended = threading.Event()
        began = threading.Event()

        def take(output: Output) -> None:
            if output.last:
                ended.set()

        engine.submit(
            Request("long", tuple(prompts(1, 2000, seed=4)[0]), Sampling(max_tokens=1, ignore_eos=True)), take
        )
        while not steps:
            began.wait(0.0005)
        _, _, beside = served(engine, [short], 1)
        ended.wait()
        with_short = [
            number for number, chunks in enumerate(steps) if any(chunk.tokens[:16] == short for chunk in chunks)
        ]
        later = with_short[-1] - with_short[0] + 1 - alone
        print(
            f"first token of a short request: {idle * 1000:.0f} ms alone, {beside * 1000:.0f} ms beside a prompt of "
            f"2,000 tokens; {later} steps more"
        )


def shared_beginning(options: argparse.Namespace) -> None:
    """20 requests that share 1,000 tokens, with and without the prefix cache."""
    beginning = prompts(1, 1000, seed=5)[0]
    asked = [[*beginning, *end] for end in prompts(20, 8, seed=6)]
    best: dict[bool, float] = {}
    loaded = made(SMALL, torch.bfloat16)
    for keeps in (False, True):
        best[keeps] = float("inf")
        for _ in range(options.rounds):
            with Engine("prefix", loaded, EngineOptions(max_batch=20, prefix_cache=keeps)) as engine:
                served(engine, [beginning], 1)
                best[keeps] = min(best[keeps], served(engine, asked, 1)[0])
    print(
        f"20 requests that share 1,000 tokens: {best[False]:.2f} s without, {best[True]:.3f} s with the prefix cache "
        f"(x{best[False] / best[True]:.1f})"
    )


def overhead(options: argparse.Namespace) -> None:
    """The part of a step at 64 requests that is not the network's."""
    with Engine("overhead", made(SMALL, torch.bfloat16), EngineOptions(max_batch=64)) as engine:
        inner = engine._stepper.runner
        inside: list[float] = []
        ends: list[float] = []

        class Timing:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def step(self, chunks: Sequence[Chunk]) -> torch.Tensor:
                started = time.perf_counter()
                logits = inner.step(chunks)
                ends.append(time.perf_counter())
                inside.append(ends[-1] - started)
                return logits

        engine._stepper.runner = Timing()  # type: ignore[assignment]  # pyright: ignore
        served(engine, prompts(64), options.tokens)
        steps = [(ends[i] - ends[i - 1], inside[i]) for i in range(len(ends) - options.tokens // 2, len(ends) - 1)]
        shares = sorted(1 - network / whole for whole, network in steps)
        whole = statistics.median(whole for whole, _ in steps)
        print(
            f"at 64 requests a step takes {whole * 1000:.1f} ms, of which scheduling, drawing and telling take "
            f"{statistics.median(shares):.1%} (median)"
        )


def memory_growth() -> None:
    """The process's memory over 10,000 requests."""
    tiny = YuanConfig(8192, 64, 2, 2, 128, 256)
    with Engine("growth", made(tiny, torch.float32), EngineOptions(max_batch=64, max_waiting=2000)) as engine:
        sizes: list[float] = []
        for round_number in range(10):
            served(engine, prompts(1000, 32, seed=round_number), 8)
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    print(
        f"10,000 requests: resident memory {sizes[0]:.0f} MB after the first 1,000, {sizes[4]:.0f} MB after 5,000, "
        f"{sizes[-1]:.0f} MB at the end"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if importlib.util.find_spec("transformers") is None:
        print("transformers is not installed here (extra bench): its numbers are left out")
    throughput(options)
    against_memory(options)
    beside_a_long_prompt()
    shared_beginning(options)
    overhead(options)
    if not options.quick:
        memory_growth()


if __name__ == "__main__":
    main()
