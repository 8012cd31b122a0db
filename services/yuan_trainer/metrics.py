"""What a step is worth: speed against what the hardware can do, memory, and the time to the end."""

import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yuan_events.printing import duration
from yuan_manifest.schema import Precision
from yuan_model import YuanConfig
from yuan_trainer.network import BlockLayer

_DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}
_GIB = 1 << 30


def flops_per_token(config: YuanConfig, sequence_length: int, *, frozen: bool = False) -> float:
    """Returns the floating-point operations of training on one token, recomputation not counted: 6 N + 12 L H S.

    The usual measure of model FLOPs (arXiv 2204.02311, appendix B), as in YUAN_FACTS A4.

    Args:
        config: the network.
        sequence_length: tokens of a sample.
        frozen: its weights get no gradient (low-rank additions to them do): a third of 6 N is not computed.
    """
    attention = 12 * config.num_hidden_layers * config.hidden_size * sequence_length
    return (4.0 if frozen else 6.0) * config.parameter_count() + attention


def matrix_product_rate(precision: Precision, device: str, seconds: float = 0.2) -> float:
    """Returns the floating-point operations a second that this process reaches in matrix products, measured.

    Ranks that share a processor measure at the same time and so share it, as they do when they train.

    Args:
        precision: of the numbers multiplied, resolved.
        device: `cpu` or `cuda`.
        seconds: to measure for, at least.
    """
    size = 4096 if device == "cuda" else 256
    while True:
        left, right = (torch.randn(size, size, device=device).to(_DTYPES[precision]) for _ in range(2))
        _timed(left, right, 1, device)
        once = _timed(left, right, 1, device)
        # A size that one product of takes a moment: smaller ones do not reach the rate of larger ones.
        if once > seconds / 20 or size >= 8192:
            break
        size *= 2
    count = max(2, round(seconds / once))
    return count * 2.0 * size**3 / _timed(left, right, count, device)


def _timed(left: torch.Tensor, right: torch.Tensor, count: int, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        torch.matmul(left, right)
    if device == "cuda":
        torch.cuda.synchronize()
    return max(1e-9, time.perf_counter() - started)


def peak_memory_gib(device: str) -> float:
    """Returns the most memory that this rank has held so far: the device's on CUDA, else the process's (2^30 bytes)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / _GIB
    # Not `ru_maxrss`, which begins with what the process had that started this one.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")) / _GIB


class Pace:
    """Says how long the rest will take, from the last steps."""

    def __init__(self, steps: int) -> None:
        """Args: steps: of the whole run."""
        self._steps = steps
        self._recent: deque[float] = deque(maxlen=20)

    def seconds_left(self, step: int, seconds: float) -> float:
        """Returns the seconds to the last step, after one that took so many."""
        self._recent.append(seconds)
        return (self._steps - step) * sum(self._recent) / len(self._recent)


def step_words(values: Mapping[str, float]) -> str:
    """Returns a step's metrics in a line for a person; what was not measured is left out."""
    words = {
        "loss": "loss {:.4f}",
        "learning_rate": "lr {:.2e}",
        "gradient_norm": "grad norm {:.3f}",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
        "memory_gib": "{:.2f} GiB",
    }
    parts = [form.format(values[name]) for name, form in words.items() if name in values]
    if values.get("skipped"):
        parts.insert(0, "left out")
    if "seconds_left" in values:
        parts.append(f"{duration(values['seconds_left'])} left")
    return "  ".join(parts)


class BlockClock:
    """How long this rank's transformer blocks take for their forward pass: what it computes by itself.

    A rank's step lasts as long as the slowest one's, whom the others wait for in collectives; inside a block there are
    none (but between tensor-parallel ranks, which are therefore slow together). Per block, so that stages of
    different length compare.
    """

    def __init__(self, module: nn.Module) -> None:
        """Args: module: with this rank's layers."""
        self._cuda = torch.cuda.is_available() and any(parameter.is_cuda for parameter in module.parameters())
        self._begun: Any = None
        self._spans: list[Any] = []
        for layer in module.modules():
            if isinstance(layer, BlockLayer):
                layer.register_forward_pre_hook(self._begin)
                layer.register_forward_hook(self._end)

    def seconds_per_block(self) -> float:
        """Returns the mean since it was last asked; 0 where there were none. Call it when the device has finished."""
        spans, self._spans = self._spans, []
        if self._cuda:
            torch.cuda.synchronize()
            spans = [begun.elapsed_time(ended) / 1000 for begun, ended in spans]
        return sum(spans) / len(spans) if spans else 0.0

    def _begin(self, layer: nn.Module, inputs: Any) -> None:
        del layer, inputs
        self._begun = self._now()

    def _end(self, layer: nn.Module, inputs: Any, outputs: Any) -> None:
        del inputs, outputs
        if layer.training:
            self._spans.append((self._begun, self._now()) if self._cuda else self._now() - self._begun)

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


@dataclass
class SlowRanks:
    """Names ranks that are slower than the others over a window of steps.

    Attributes:
        window: steps.
        factor: of the median over the ranks, above which one is slow.
    """

    window: int = 20
    factor: float = 1.5
    _sums: list[float] = field(default_factory=list[float])
    _steps: int = 0
    _named: frozenset[int] = frozenset()

    def add(self, seconds: Sequence[float]) -> str:
        """Takes what each rank measured in a step; returns a line when a window ends in which ranks have become slow.

        Args:
            seconds: per block, by rank.
        """
        self._sums = [a + b for a, b in zip(self._sums, seconds, strict=True)] if self._sums else list(seconds)
        self._steps += 1
        if self._steps < self.window:
            return ""
        means = [total / self._steps for total in self._sums]
        self._sums, self._steps = [], 0
        # The lower of the middle two: of two ranks, the faster one.
        median = statistics.median_low(means)
        slow = frozenset(rank for rank, mean in enumerate(means) if median > 0 and mean > self.factor * median)
        news, self._named = slow - self._named, slow
        if not news:
            return ""
        told = ", ".join(
            f"rank {rank} takes {1000 * means[rank]:.2f} ms a block, {means[rank] / median:.1f} times the median"
            for rank in sorted(slow)
        )
        return f"slow over the last {self.window} steps: {told} of {1000 * median:.2f} ms; all wait for it"
