"""How fast the engine serves, each number beside what it is measured against, in one run on this machine.

    python benchmarks/serving.py [--threads 2] [--tokens 64] [--rounds 3] [--quick]

Weights are random, prompts have 64 tokens, decoding is greedy, and each pair is measured in turn so that whatever else
the machine does meets both; the best round counts. Peers: `transformers` generate on a Llama of the same sizes (30M
parameters, tied; ours carries the localized filter's 17 % more), in this environment if it is installed there (extra
`bench`), and numbers of llama.cpp and vLLM's CPU build that were measured once on a machine like this (2 cores; named
as quoted). The same model is then asked through gRPC (`serving_rpc.py`). Without --quick it also sends 10,000 requests
and looks at the process's memory. Ends with a table: every goal, what was reached, whether that is enough.
"""

import argparse
import ctypes
import gc
import importlib.util
import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from serving_rpc import SMALL, prompts, through_grpc

from yuan_corpus import Tokenizer
from yuan_inference.engine import Engine, EngineOptions, Output, Request, Sampling
from yuan_inference.loaded import LoadedModel
from yuan_model import BLOCK_TOKENS, Chunk, NativeRunner, PoolSize, Yuan, YuanConfig, initialize_, native_library

LARGE = YuanConfig(8192, 1024, 13, 16, 2816, 1024)
LIKE_VLLM, LIKE_LLAMA = {1: 102, 16: 1052, 64: 1788}, 418
QUOTED = {"llama.cpp bf16": {1: LIKE_LLAMA, 16: 1672}, "vLLM CPU bf16": LIKE_VLLM}
"""Tokens a second at so many requests at once, measured once on 2 cores of a machine like this."""


@dataclass
class Goals:
    """What is to be reached, and what was.

    Attributes:
        rows: of the table: goal, reached, wanted, whether it is met (None: not measured here).
    """

    rows: list[tuple[str, str, str, bool | None]] = field(default_factory=list[tuple[str, str, str, bool | None]])

    def at_least(self, goal: str, reached: float, wanted: float, unit: str = "") -> None:
        """Takes a number that should be high."""
        self.rows.append((goal, f"{reached:,.4g}{unit}", f">= {wanted:,.4g}{unit}", reached >= wanted))

    def at_most(self, goal: str, reached: float, wanted: float, unit: str = "") -> None:
        """Takes a number that should be low."""
        self.rows.append((goal, f"{reached:,.4g}{unit}", f"<= {wanted:,.4g}{unit}", reached <= wanted))

    def not_measured(self, goal: str, why: str) -> None:
        """Says that a goal could not be looked at."""
        self.rows.append((goal, why, "", None))

    def show(self) -> None:
        """Prints the table."""
        widths = [max(len(row[column]) for row in self.rows) for column in range(3)]
        print()
        for goal, reached, wanted, met in self.rows:
            verdict = "not measured" if met is None else "met" if met else "NOT MET"
            print(f"{goal:{widths[0]}}  {reached:>{widths[1]}}  {wanted:<{widths[2]}}  {verdict}")


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


def throughput(options: argparse.Namespace, goals: Goals) -> None:
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
                _judge(goals, name, count, ours, theirs)
                print(
                    f"30M {name}, {count:2d} at once: {ours:7.0f} tokens/s, first token after {first * 1000:.0f} ms; "
                    + ", ".join(beside),
                    flush=True,
                )
        gc.collect()


def _judge(goals: Goals, name: str, count: int, ours: float, theirs: float) -> None:
    """Compares with what there is a goal for."""
    if name == "bf16" and count in LIKE_VLLM:
        goals.at_least(f"bf16, {count} at once, tokens/s: vLLM's CPU build", ours, LIKE_VLLM[count])
    if name == "bf16" and count == 1:
        goals.at_least("bf16, 1 at once, tokens/s: llama.cpp / 1.5", ours, LIKE_LLAMA / 1.5)
    if (name, count) in {("fp32", 1), ("fp32", 8), ("bf16", 16)}:
        goal = f"{name}, {count} at once: times transformers"
        if theirs:
            goals.at_least(goal, ours / theirs, 2)
        else:
            goals.not_measured(goal, "transformers is not installed")


def against_memory(options: argparse.Namespace, goals: Goals) -> None:
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
    goals.at_least("200M bf16, 1 at once: part of the memory's bandwidth", share, 0.6)
    goals.at_least("200M int8, 1 at once: times bf16", best["bf16"] / best["int8"], 1.3)
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


def beside_a_long_prompt(goals: Goals) -> None:
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
        goals.at_most("first token beside a prompt of 2,000 tokens: steps more", later, 3)
        print(
            f"first token of a short request: {idle * 1000:.0f} ms alone, {beside * 1000:.0f} ms beside a prompt of "
            f"2,000 tokens; {later} steps more"
        )


def shared_beginning(options: argparse.Namespace, goals: Goals) -> None:
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
    goals.at_least("20 requests that share 1,000 tokens: times without the prefix cache", best[False] / best[True], 8)
    print(
        f"20 requests that share 1,000 tokens: {best[False]:.2f} s without, {best[True]:.3f} s with the prefix cache "
        f"(x{best[False] / best[True]:.1f})"
    )


class Clocked:
    """Counts the processor seconds of its thread while one function of a part of the engine runs."""

    def __init__(self, part: Any, name: str) -> None:
        """Args: part: whose function is replaced. name: of the function."""
        self._part, self._name, self._function = part, name, getattr(part, name)
        self.spans: list[tuple[float, float]] = []
        setattr(part, name, self)

    def stop(self) -> None:
        """Puts the function back."""
        setattr(self._part, self._name, self._function)

    def __call__(self, *arguments: Any) -> Any:
        """Does what the function does."""
        begun = time.thread_time()
        result = self._function(*arguments)
        self.spans.append((begun, time.thread_time()))
        return result

    def median(self) -> float:
        """Returns the median of its last calls, all of them of steps in which everybody decodes."""
        return statistics.median(end - begin for begin, end in self.spans[-30:-2])


def overhead(options: argparse.Namespace, goals: Goals) -> None:
    """What a step at 64 requests spends outside the network, in its thread's processor time."""
    with Engine("overhead", made(SMALL, torch.bfloat16), EngineOptions(max_batch=64)) as engine:
        stepper: Any = engine._stepper
        network, plan = Clocked(stepper.runner._library, "yuan_step"), Clocked(stepper._scheduler, "plan")
        draw, step = Clocked(stepper._sampler, "draw"), Clocked(stepper.runner, "step")
        served(engine, prompts(64), max(options.tokens, 40))
        network.stop()
        inside, spans = network.median(), network.spans[-30:-2]
        outside = statistics.median(begin - end for (_, end), (begin, _) in itertools.pairwise(spans))
        parts = {"planning": plan.median(), "handing over": step.median() - inside, "drawing": draw.median()}
        parts["taking and telling"] = outside - sum(parts.values())
        share = outside / (inside + outside)
        goals.at_most("64 at once: part of a step outside the network", 100 * share, 5, " %")
        told = ", ".join(f"{name} {1e6 * seconds:.0f}" for name, seconds in parts.items())
        print(
            f"at 64 requests a step's thread computes {1000 * (inside + outside):.1f} ms, of which "
            f"{1e6 * outside:.0f} us ({share:.1%}) are not the network's: us of {told}"
        )


def memory_growth(goals: Goals) -> None:
    """The process's memory over 10,000 requests."""
    tiny = YuanConfig(8192, 64, 2, 2, 128, 256)
    with Engine("growth", made(tiny, torch.float32), EngineOptions(max_batch=64, max_waiting=2000)) as engine:
        sizes: list[float] = []
        for round_number in range(10):
            served(engine, prompts(1000, 32, seed=round_number), 8)
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
    goals.at_most("10,000 requests: growth of memory behind the first 5,000", sizes[-1] - sizes[4], 5, " MB")
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
    goals = Goals()
    throughput(options, goals)
    against_memory(options, goals)
    beside_a_long_prompt(goals)
    shared_beginning(options, goals)
    overhead(options, goals)
    for count, reached in through_grpc(options.tokens, options.rounds).items():
        goals.at_least(f"bf16 through gRPC, {count} streams, tokens/s: vLLM's CPU build", reached, LIKE_VLLM[count])
    if not options.quick:
        memory_growth(goals)
    goals.show()


if __name__ == "__main__":
    main()
