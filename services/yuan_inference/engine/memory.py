"""How much memory there is, and how much of it is free: of a device, or of what this machine gives a container."""

import os
from pathlib import Path

import torch

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the container that this process is in; of the second and the first version of cgroups."""
_FACTS = Path("/proc/meminfo")


def memory_bytes(device: torch.device) -> int:
    """Returns how much there is; of CUDA what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()])


def free_bytes(device: torch.device) -> int:
    """Returns how much could be taken now without another process giving any back."""
    there = memory_bytes(device)
    if device.type == "cuda":
        return there
    try:
        lines = _FACTS.read_text(encoding="ascii").splitlines()
    except OSError:
        return there
    found = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(there, next(found, there))


def _limits() -> list[int]:
    found: list[int] = []
    for file in _LIMITS:
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():  # not so where it says `max`
            found.append(int(text))
    return found
