"""What localized filtering is worth: the same small model with plain attention, with the filter, with its norm.

    python benchmarks/lfa_ablation.py [--steps 600] [--seeds 1] [--threads 2] [--plot lfa_ablation.png]

The paper's Table 1 (arXiv 2311.15786; 160 to 185 M parameters, its own code data) has the losses 1.251, 1.2122 and
1.2069, and 577, 618 and 631 ms a step. Here the text is the Python library that runs this file, cut by a tokenizer of
ours that is trained on it; the models have hidden 128 and 4 layers. All three see the same samples in the same order,
in turn step by step, and begin with the same weights where they have the same ones. Prints each one's loss on
files that it was not trained on, and its time a step against plain attention's; exits with 1 if the order of the
paper's losses is not found.
"""

import argparse
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from yuan_corpus import Algorithm, Tokenizer, train_tokenizer
from yuan_manifest.schema import OptimizerSection
from yuan_model import Yuan, YuanConfig, blockwise_cross_entropy, initialize_
from yuan_trainer.optimizers import make_optimizer
from yuan_trainer.schedule import learning_rate

CONFIG = YuanConfig(2048, 128, 4, 4, 352, 128)
BATCH = 16
HELD_OUT = 64
"""Samples of the held-out files that losses are measured on."""
PAPER = {"plain attention": 1.251, "filter without norm": 1.2122, "filter with norm": 1.2069}


class NoNorm(nn.Module):
    """Stands where the filter's norm is: returns what it is given, the sum of input and filtered input."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the input."""
        return hidden


@dataclass
class Contender:
    """One of the three networks, and how it has done.

    Attributes:
        name: as printed.
        model: the network.
        optimizer: of its weights.
        losses: of the training batches, by step.
        seconds: of the steps.
    """

    name: str
    model: Yuan
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def step(self, tokens: Tensor, rate: float) -> None:
        """Trains on one batch [b, s + 1]."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(float(loss.detach()))
        self.seconds.append(time.perf_counter() - started)

    def loss(self, tokens: Tensor) -> Tensor:
        """Returns the mean loss of tokens [b, s + 1]."""
        hidden = self.model.hidden_states(tokens[:, :-1])
        return blockwise_cross_entropy(hidden, self.model.embed_tokens.weight, tokens[:, 1:])


def contenders(seed: int, section: OptimizerSection) -> list[Contender]:
    """Returns the three networks with their first weights."""
    made: list[Contender] = []
    for name in PAPER:
        config = replace(CONFIG, localized_filtering=name != "plain attention")
        model = Yuan(config)
        initialize_(model, config, seed)
        if name == "filter without norm":
            for block in model.layers:
                assert block.self_attn.lf_gate is not None
                block.self_attn.lf_gate.output_layernorm = NoNorm()  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        made.append(Contender(name, model, make_optimizer(list(model.named_parameters()), section)))
    return made


def library_text() -> tuple[list[str], list[str]]:
    """Returns the files of this Python's library: nine tenths to train on, the rest held out."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for folder in (root, root / "email", root / "json") for path in folder.glob("*.py"))
    random.Random(0).shuffle(files)
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in files]
    cut = len(texts) // 10
    return texts[cut:], texts[:cut]


def token_row(texts: list[str], tokenizer: Tokenizer) -> Tensor:
    """Returns all documents in a row, each with its `<eod>`."""
    ids: list[int] = []
    for text in texts:
        ids.extend(tokenizer.encode(text))
        ids.append(tokenizer.eod_id)
    return torch.tensor(ids)


def samples(row: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns pieces of a row from random places, [count, s + 1]."""
    length = CONFIG.max_position_embeddings + 1
    starts = torch.randint(0, len(row) - length, (count,), generator=generator)
    return torch.stack([row[start : start + length] for start in starts.tolist()])


def train(row: Tensor, seed: int, steps: int) -> list[Contender]:
    """Trains all three on the same batches, in turn."""
    section = OptimizerSection(lr=3e-3, min_lr=3e-4, warmup_steps=steps // 10)
    models = contenders(seed, section)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        batch = samples(row, BATCH, generator)
        for model in models:
            model.step(batch, learning_rate(step, steps, section))
        if step % max(1, steps // 10) == 0:
            recent = ", ".join(f"{m.name} {statistics.mean(m.losses[-20:]):.4f}" for m in models)
            print(f"  step {step:5d} of {steps}: {recent}", flush=True)
    return models


def draw(models: list[Contender], path: Path) -> None:
    """Writes the training losses, smoothed, as a PNG."""
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for model, colour in zip(models, ("#cc6677", "#ddaa33", "#4477aa"), strict=True):
        window = max(1, len(model.losses) // 20)
        losses = torch.tensor(model.losses).unfold(0, window, 1).mean(dim=1)
        axes.plot(range(window, len(model.losses) + 1), losses.tolist(), color=colour, label=model.name)
    title = "Localized filtering on the text of Python's library"
    axes.set(title=title, xlabel="step", ylabel="training loss (nats per token)", yscale="log")
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1, help="runs, each with other first weights and samples")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plot", type=Path, default=Path("lfa_ablation.png"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    training, held_out = library_text()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(training[::8], Path(folder), Algorithm.UNIGRAM, CONFIG.vocab_size)
    row, rest = token_row(training[::3], tokenizer), token_row(held_out, tokenizer)
    unseen = samples(rest, HELD_OUT, torch.Generator().manual_seed(0))
    tokens = f"{BATCH} x {CONFIG.max_position_embeddings} tokens"
    print(f"{len(row) / 1e6:.1f}M tokens to train on, {options.steps} steps of {tokens}", flush=True)
    found: dict[str, list[float]] = {name: [] for name in PAPER}
    times: dict[str, list[float]] = {name: [] for name in PAPER}
    for seed in range(1, options.seeds + 1):
        models = train(row, seed, options.steps)
        for model in models:
            with torch.no_grad():
                found[model.name].append(float(model.loss(unseen)))
            times[model.name].append(statistics.median(model.seconds))
        if seed == 1:
            draw(models, options.plot)
    plain, plain_time = (statistics.mean(values["plain attention"]) for values in (found, times))
    for name, losses in found.items():
        loss, seconds = statistics.mean(losses), statistics.mean(times[name])
        print(
            f"{name:20s} held-out loss {loss:.4f} ({loss / plain - 1:+.1%}; paper {PAPER[name]} "
            f"{PAPER[name] / PAPER['plain attention'] - 1:+.1%}), {seconds * 1000:.0f} ms a step "
            f"({seconds / plain_time:.2f} of plain)"
        )
    print(f"losses over steps: {options.plot}")
    means = [statistics.mean(losses) for losses in found.values()]
    if means != sorted(means, reverse=True):
        sys.exit("the order is not the paper's: plain attention worst, the filter with its norm best")


if __name__ == "__main__":
    main()
