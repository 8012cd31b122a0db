"""What this machine computes on: which device a topology means here, and which number format suits it."""

import torch

from yuan_events import InputError
from yuan_manifest.schema import Device, Precision, Topology


def resolve_device(topology: Topology) -> str:
    """Returns `cuda` or `cpu` for a topology.

    Raises:
        InputError: if CUDA is asked for and there is too little of it.
    """
    wanted = topology.nodes.device
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == Device.cpu or (wanted == Device.auto and available == 0):
        return "cpu"
    if available < topology.nodes.devices:
        raise InputError(
            f"topology.nodes.devices: {topology.nodes.devices} CUDA devices are wanted, this host has {available}; "
            "lower it, or set topology.nodes.device=cpu"
        )
    return "cuda"


def resolve_precision(wanted: Precision, device: str) -> Precision:
    """Returns the number format that `auto` means on a device: bf16 only where the hardware multiplies in it."""
    if wanted != Precision.auto:
        return wanted
    return Precision.bf16 if computes_bf16(device) else Precision.fp32


def computes_bf16(device: str) -> bool:
    """Tells whether a device has bf16 arithmetic of its own (not emulated by conversion to fp32)."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
