# ruff: noqa: PLC0415  what only one contender needs is loaded in its process only, or its memory would count for all
"""How fast the trainer's engine trains, against a plain implementation of the same network and transformers' Llama.

    python benchmarks/training.py [--threads 2] [--rounds 5] [--bf16 auto|always|never] [--only speed,loss]

Hidden 512, 8 layers, 8 heads, FFN 1408, vocabulary 8192, batch 4 x 512, AdamW, clipping. Contenders: `engine`, what
training jobs run at one rank (DeepSpeed, ZeRO-1, fp32 or bf16 with fp32 masters); `engine, no filter`, the same without
localized filtering; `plain`, the same network as a model file of the Hugging Face kind writes it, from torch primitives
(score matrices in full, conv2d, all logits, torch's AdamW; all in bf16 in the bf16 part); `Llama`, transformers' own of
the same shape, eager (bf16 by autocast), where transformers is installed (extra `bench`). Each lives in a process of
its own and takes its steps in turn with the others, so that whatever else the machine does meets all; medians are
compared. MFU is 6 N + 12 L H S FLOPs a token, over this machine's own matrix product of 2048^3, measured in each round.

Then the block-wise loss against the plain one at vocabulary 135,040, hidden 512, 2048 tokens: time, and memory above
what inputs take.
"""

import argparse
import importlib.util
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from yuan_model import YuanConfig, blockwise_cross_entropy, cross_entropy
from yuan_trainer.launcher import computing_environment

CONFIG = YuanConfig(8192, 512, 8, 8, 1408, 512)
BATCH, LENGTH = 4, 512
LOSS_SHAPE = (2048, 512, 135_040)
"""Tokens, hidden, vocabulary of the comparison of losses."""
RATE = 3e-4

Step = Callable[[], float]
"""Takes one training step and returns its loss."""


def tokens() -> Tensor:
    """Returns the batch that all train on, [b, s + 1]."""
    return torch.randint(0, CONFIG.vocab_size, (BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(1))


# What is compared: each makes its model and returns its step.


def engine(precision: str, *, localized_filtering: bool = True) -> Step:
    """The product: the engine of a training job at one rank."""
    from yuan_manifest.schema import DataSection, OptimizerSection, Precision, TrainSection
    from yuan_trainer.engine import build_engine
    from yuan_trainer.joining import FILE, join_processes
    from yuan_trainer.specification import Specification

    folder = Path(tempfile.mkdtemp(prefix="yuan-benchmark-"))
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    os.environ[FILE] = str(folder / "store")
    join_processes("cpu")
    specification = Specification(
        model=replace(CONFIG, localized_filtering=localized_filtering),
        datasets=(),
        data=DataSection(sequence_length=LENGTH),
        train=TrainSection(
            steps=1000, global_batch_size=BATCH, micro_batch_size=BATCH, precision=Precision(precision), seed=1
        ),
        optimizer=OptimizerSection(lr=RATE),
        stages=(CONFIG.num_hidden_layers,),
        replicas=1,
        device="cpu",
        checkpoint_steps=0,
        checkpoint_keep=1,
        validation_steps=0,
        validation_samples=0,
        eod_token_id=0,
        state_root=folder,
        resume_from=None,
        output=folder,
    )
    trained = build_engine(specification)
    batch = tokens()
    micro_batch = (batch[:, :-1], (batch[:, 1:], torch.ones(BATCH, LENGTH)))
    return lambda: trained.train_step(iter([micro_batch]), RATE).loss


def engine_without_filter(precision: str) -> Step:
    """The product with plain attention."""
    return engine(precision, localized_filtering=False)


class PlainNorm(nn.Module):
    """RMSNorm operation by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(CONFIG.hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the normalised input."""
        exact = hidden.float()
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * exact.to(hidden.dtype)


class PlainFilter(nn.Module):
    """Localized filtering by two-dimensional convolutions over a padded sequence."""

    def __init__(self) -> None:
        super().__init__()
        hidden = CONFIG.hidden_size
        self.conv1 = nn.Conv2d(hidden, hidden // 2, (2, 1), padding=(1, 0))
        self.conv2 = nn.Conv2d(hidden // 2, hidden, (2, 1), padding=(1, 0))
        self.norm = PlainNorm()

    def forward(self, hidden_bsh: Tensor) -> Tensor:
        """Returns the filtered input; padding on the right is computed and cut off."""
        length = hidden_bsh.shape[1]
        image = hidden_bsh.transpose(1, 2).unsqueeze(-1)
        image = self.conv1(image)[:, :, :length]
        image = self.conv2(image)[:, :, :length]
        return self.norm(image.squeeze(-1).transpose(1, 2) + hidden_bsh)


class PlainLayer(nn.Module):
    """A transformer layer with its scores in full."""

    def __init__(self) -> None:
        super().__init__()
        hidden, inner = CONFIG.hidden_size, CONFIG.intermediate_size
        self.norm1, self.norm2, self.filter = PlainNorm(), PlainNorm(), PlainFilter()
        self.q, self.k, self.v, self.o = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))
        self.up, self.gate = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, hidden_bsh: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        """Returns the residual stream after the layer."""
        inner = self.norm1(hidden_bsh)
        filtered = self.filter(inner)
        queries, keys, values = (
            part.view(BATCH, LENGTH, CONFIG.num_attention_heads, CONFIG.head_dim).transpose(1, 2)
            for part in (self.q(filtered), self.k(filtered), self.v(inner))
        )
        queries, keys = (part * cosine + rotate_half(part) * sine for part in (queries, keys))
        scores = queries @ keys.transpose(2, 3) / math.sqrt(CONFIG.head_dim) + mask
        weights = functional.softmax(scores, dim=-1, dtype=torch.float32).to(queries.dtype)
        mixed = (weights @ values).transpose(1, 2).reshape(BATCH, LENGTH, CONFIG.hidden_size)
        hidden_bsh = hidden_bsh + self.o(mixed)
        inner = self.norm2(hidden_bsh)
        return hidden_bsh + self.down(functional.silu(self.up(inner)) * self.gate(inner))


def rotate_half(heads: Tensor) -> Tensor:
    """Returns (-second half, first half)."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class PlainModel(nn.Module):
    """The network as a model file of the Hugging Face kind has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CONFIG.vocab_size, CONFIG.hidden_size)
        self.layers = nn.ModuleList(PlainLayer() for _ in range(CONFIG.num_hidden_layers))
        self.norm = PlainNorm()
        nn.init.normal_(self.embedding.weight, std=CONFIG.initializer_range)

    def forward(self, batch: Tensor) -> Tensor:
        """Returns the loss of tokens [b, s + 1]."""
        hidden = self.embedding(batch[:, :-1])
        exponents = torch.arange(0, CONFIG.head_dim, 2).float() / CONFIG.head_dim
        angles = torch.outer(torch.arange(LENGTH).float(), CONFIG.rope_theta**-exponents).repeat(1, 2)
        cosine, sine = angles.cos().to(hidden.dtype), angles.sin().to(hidden.dtype)
        mask = torch.full((LENGTH, LENGTH), torch.finfo(hidden.dtype).min, dtype=hidden.dtype).triu(1)
        for layer in self.layers:
            hidden = layer(hidden, cosine, sine, mask[None, None].expand(BATCH, 1, -1, -1))
        logits = functional.linear(self.norm(hidden), self.embedding.weight).float()
        return functional.cross_entropy(logits.view(-1, CONFIG.vocab_size), batch[:, 1:].reshape(-1))


def plain(precision: str) -> Step:
    """The same network, written as one writes it first."""
    model = PlainModel()
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    return own_loop(model, model)


def llama(precision: str) -> Step:
    """Llama of the same shape as transformers has it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=CONFIG.vocab_size,
        hidden_size=CONFIG.hidden_size,
        intermediate_size=CONFIG.intermediate_size,
        num_hidden_layers=CONFIG.num_hidden_layers,
        num_attention_heads=CONFIG.num_attention_heads,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        attn_implementation="eager",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)

    def loss(batch: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(batch[:, :-1]).logits
        return functional.cross_entropy(logits.float().view(-1, CONFIG.vocab_size), batch[:, 1:].reshape(-1))

    return own_loop(model, loss)


def own_loop(model: nn.Module, loss_of: Callable[[Tensor], Tensor]) -> Step:
    """Returns a step by torch's AdamW as one calls it first."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    batch = tokens()

    def step() -> float:
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def loss_alone(of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Step:
    """Returns a step that is a loss and its gradients, at the shape of `LOSS_SHAPE`."""
    count, hidden, vocabulary = LOSS_SHAPE
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(1, count, hidden, generator=draw).requires_grad_()
    weight = torch.empty(vocabulary, hidden).normal_(std=0.02, generator=draw).requires_grad_()
    labels = torch.randint(0, vocabulary, (1, count), generator=draw)

    def step() -> float:
        states.grad = weight.grad = None
        loss = of(states, weight, labels)
        loss.backward()
        return float(loss.detach())

    return step


def plain_loss(_precision: str) -> Step:
    """All logits, then torch's cross entropy."""
    return loss_alone(lambda states, weight, labels: cross_entropy(functional.linear(states, weight), labels))


def blockwise_loss(_precision: str) -> Step:
    """The product's."""
    return loss_alone(blockwise_cross_entropy)


# How they are compared.


class Contender:
    """One of them in a process of its own.

    Attributes:
        name: as printed.
        seconds: of its steps.
        losses: of its steps.
        start_bytes: peak memory of its process before the first step.
        peak_bytes: peak memory of its process.
    """

    def __init__(self, name: str, make: Callable[[str], Step], precision: str, threads: int) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.losses: list[float] = []
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, make, precision, threads), daemon=True)
        before = dict(os.environ)
        if make in (engine, engine_without_filter):
            # As its launcher starts a rank; the others start as Python does.
            os.environ |= computing_environment("cpu", 1)
        self._process.start()
        os.environ.clear()
        os.environ.update(before)
        self.start_bytes = self.peak_bytes = float(self._pipe.recv())

    def step(self, *, counts: bool = True) -> None:
        """Has it take one step; the first ones do not count, in which memory is allocated."""
        self._pipe.send(None)
        seconds, loss, self.peak_bytes = self._pipe.recv()
        if counts:
            self.seconds.append(seconds)
            self.losses.append(loss)

    def end(self) -> None:
        """Ends its process."""
        self._process.terminate()
        self._process.join()


def serve(pipe: Connection, make: Callable[[str], Step], precision: str, threads: int) -> None:
    """Steps whenever the parent says so, and answers with seconds, loss and peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    step = make(precision)
    pipe.send(peak_bytes())
    while True:
        pipe.recv()
        started = time.perf_counter()
        loss = step()
        pipe.send((time.perf_counter() - started, loss, peak_bytes()))


def peak_bytes() -> int:
    """Returns the most memory that this process has held."""
    # Not getrusage: it begins with what the process was forked from.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def product_flops(dtype: torch.dtype) -> float:
    """Returns this machine's FLOPs a second in a matrix product of 2048^3: the best of three."""
    left, right = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    best = math.inf
    for _ in range(3):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * 2048**3 / best


def flops_per_token(*, localized_filtering: bool) -> float:
    """Returns 6 N + 12 L H S."""
    count = replace(CONFIG, localized_filtering=localized_filtering).parameter_count()
    return 6 * count + 12 * CONFIG.num_hidden_layers * CONFIG.hidden_size * LENGTH


def compare(makers: dict[str, Callable[[str], Step]], precision: str, options: Any) -> tuple[list[Contender], float]:
    """Has all take their steps in turn; returns them, and this machine's FLOPs a second."""
    contenders = [Contender(name, make, precision, options.threads) for name, make in makers.items()]
    peaks: list[float] = []
    try:
        for contender in contenders:
            contender.step(counts=False)
        for _ in range(options.rounds):
            peaks.append(product_flops(torch.float32 if precision == "fp32" else torch.bfloat16))
            for contender in contenders:
                contender.step()
    finally:
        for contender in contenders:
            contender.end()
    return contenders, statistics.median(peaks)


def compare_speed(precision: str, options: Any) -> None:
    """Prints tokens a second, MFU and memory of all, and the ratios to the engine's."""
    makers: dict[str, Callable[[str], Step]] = {
        "engine": engine,
        "engine, no filter": engine_without_filter,
        "plain": plain,
    }
    if importlib.util.find_spec("transformers") is not None:
        makers["Llama"] = llama
    else:
        print("Llama is left out: transformers is not installed (pip install 'yuan-stack[bench]')")
    contenders, peak = compare(makers, precision, options)
    print(f"{precision}, {options.threads} threads; matrix product of 2048^3: {peak / 1e9:.0f} GFLOP/s")
    ours = contenders[0]
    flops = {c.name: flops_per_token(localized_filtering=c.name in ("engine", "plain")) for c in contenders}
    for contender in contenders:
        # Per round, so that what disturbs a round meets both sides of a ratio.
        faster = statistics.median(b / a for a, b in zip(ours.seconds, contender.seconds, strict=True))
        seconds = statistics.median(contender.seconds)
        rate = BATCH * LENGTH / seconds
        print(
            f"  {contender.name:18s} {rate:6.0f} tokens/s, MFU {rate * flops[contender.name] / peak:4.0%}, peak memory "
            f"{contender.peak_bytes / 1e9:.2f} GB ({(contender.peak_bytes - contender.start_bytes) / 1e9:.2f} above "
            f"its start), loss {contender.losses[0]:.2f} -> {contender.losses[-1]:.2f}; engine against it: tokens/s x "
            f"{faster:.2f}, per FLOP x {faster * flops['engine'] / flops[contender.name]:.2f}, memory x "
            f"{ours.peak_bytes / contender.peak_bytes:.2f}"
        )
    without = statistics.median(b / a for a, b in zip(ours.seconds, contenders[1].seconds, strict=True))
    share, fair = 1 - without, 1 - flops["engine, no filter"] / flops["engine"]
    print(f"  localized filtering: {share:.1%} of a step's time, {fair:.1%} of its FLOPs, x {share / fair:.2f}")


def compare_losses(options: Any) -> None:
    """Prints time and memory of the two losses."""
    (ours, theirs), _ = compare({"block-wise": blockwise_loss, "plain": plain_loss}, "fp32", options)
    memory = [contender.peak_bytes - contender.start_bytes for contender in (ours, theirs)]
    time_ratio = statistics.median(a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True))
    assert math.isclose(ours.losses[-1], theirs.losses[-1], rel_tol=1e-5), "the losses differ"
    print(
        f"loss of {LOSS_SHAPE[0]} tokens, hidden {LOSS_SHAPE[1]}, vocabulary {LOSS_SHAPE[2]:,}: block-wise "
        f"{statistics.median(ours.seconds):.2f} s and {memory[0] / 1e9:.2f} GB, plain "
        f"{statistics.median(theirs.seconds):.2f} s and {memory[1] / 1e9:.2f} GB; time x {time_ratio:.2f}, memory x "
        f"{memory[0] / memory[1]:.2f}"
    )


def main() -> None:
    """Measures and prints."""
    from yuan_trainer.hardware import computes_bf16

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", choices=("auto", "always", "never"), default="auto")
    parser.add_argument("--only", default="speed,loss", help="parts to run")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = options.only.split(",")
    if "speed" in parts:
        compare_speed("fp32", options)
        if options.bf16 == "always" or (options.bf16 == "auto" and computes_bf16("cpu")):
            compare_speed("bf16", options)
        elif options.bf16 == "auto":
            print("bf16 is left out: this processor has no bf16 arithmetic and would emulate it (--bf16 always)")
    if "loss" in parts:
        compare_losses(options)


if __name__ == "__main__":
    main()
