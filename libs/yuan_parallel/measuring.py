"""Measures what a device of this machine reaches, and prints it as JSON: `python -m yuan_parallel.measuring cpu 2`.

A program of its own, so that who asks (the command line) needs no torch. Arguments: kind of device (auto, cpu, cuda),
ranks of this host, number format (auto, fp32, bf16, fp16).
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import torch

_SIZE = 2048
_ROUNDS = 4
_MOVED = 64 << 20
_DATA_SHEETS: dict[str, tuple[float, float]] = {
    "GB200": (2500.0, 7200.0),
    "B200": (2250.0, 7200.0),
    "H200": (989.0, 3600.0),
    "H800": (989.0, 1600.0),
    "H100": (989.0, 3600.0),
    "H20": (148.0, 3600.0),
    "A800": (312.0, 1600.0),
    "A100": (312.0, 2400.0),
    "V100": (125.0, 1200.0),
}
"""By part of a device's name: TFLOP/s in 2-byte matrix products without sparsity; Gb/s one way over NVLink."""


def main(kind: str, ranks: int, precision: str) -> dict[str, Any]:
    """Returns what was found.

    Args:
        kind: auto, cpu or cuda.
        ranks: that share this host.
        precision: number format; auto is resolved.
    """
    device = "cuda" if kind == "cuda" or (kind == "auto" and torch.cuda.is_available()) else "cpu"
    if device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    if precision == "auto":
        precision = "bf16" if _computes_bf16(device) else "fp32"
    peak, link = _data_sheet(device)
    return {
        "device": device,
        "name": torch.cuda.get_device_name(0) if device == "cuda" else "CPU",
        "precision": precision,
        "memory_gib": _memory(device, ranks) / (1 << 30),
        "tflops": _matrix_flops(device, precision) / 1e12,
        "peak_tflops": peak,
        "link_gbps": link if link is not None else _moved_per_second(device) * 8 / 1e9,
        "link_is_looked_up": link is not None,
    }


def _computes_bf16(device: str) -> bool:
    """Whether bf16 is the hardware's own, as the trainer asks it."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _data_sheet(device: str) -> tuple[float | None, float | None]:
    name = torch.cuda.get_device_name(0) if device == "cuda" else ""
    return next((facts for part, facts in _DATA_SHEETS.items() if part in name), (None, None))


def _memory(device: str, ranks: int) -> float:
    if device == "cuda":
        return float(cast("Any", torch.cuda).mem_get_info(0)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / ranks


def _matrix_flops(device: str, precision: str) -> float:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = _SIZE * 4 if device == "cuda" else _SIZE
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: left @ right, device)


def _best_seconds(work: Callable[[], object], device: str) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def _moved_per_second(device: str) -> float:
    if device == "cuda" and torch.cuda.device_count() > 1:
        block = torch.empty(_MOVED, dtype=torch.uint8, device="cuda:0")
        there = torch.empty_like(block, device="cuda:1")
        return _MOVED / _best_seconds(lambda: there.copy_(block), device)
    return _MOVED / min(_seconds_over_loopback() for _ in range(2))


def _seconds_over_loopback() -> float:
    """Ranks of one host talk over its loopback interface, as gloo does."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as sender:
        sender.connect(server.getsockname())
        receiver, _ = server.accept()
        block = bytes(1 << 20)

        def send() -> None:
            for _ in range(_MOVED // len(block)):
                sender.sendall(block)

        with receiver:
            started = time.perf_counter()
            thread = threading.Thread(target=send)
            thread.start()
            left, buffer = _MOVED, bytearray(1 << 20)
            while left > 0:
                left -= receiver.recv_into(buffer)
            thread.join()
            return time.perf_counter() - started


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], int(sys.argv[2]), sys.argv[3])) + "\n")
