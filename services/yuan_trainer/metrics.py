"""What a step is worth: speed against what the hardware can do, memory, and the time to the end."""

import resource
import time
from collections import deque

import torch

from yuan_manifest.schema import Precision
from yuan_model import YuanConfig

_DTYPES = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}
_GIB = 1 << 30


def flops_per_token(config: YuanConfig, sequence_length: int) -> float:
    """Returns the floating-point operations of training on one token, recomputation not counted: 6 N + 12 L H S.

    The usual measure of model FLOPs (arXiv 2204.02311, appendix B), as in YUAN_FACTS A4.
    """
    attention = 12 * config.num_hidden_layers * config.hidden_size * sequence_length
    return 6.0 * config.parameter_count() + attention


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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB


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


def duration(seconds: float) -> str:
    """Returns a time for a person: `48 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
