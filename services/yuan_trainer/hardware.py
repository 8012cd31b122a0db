"""What this machine computes on: which device a topology means here, and which number format suits it."""

import os
from collections.abc import Sequence

import torch

from yuan_events import InputError
from yuan_manifest.choices import AttentionBackend
from yuan_manifest.schema import Device, Launcher, Precision, Topology
from yuan_model import flash_installed


def resolve_device(topology: Topology) -> str:
    """Returns `cuda` or `cpu` for a topology.

    Raises:
        InputError: if CUDA is asked for and there is too little of it.
    """
    wanted = topology.nodes.device
    if topology.launcher != Launcher.local:
        return str(wanted)  # of other hosts: each finds out for itself whether it has it
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == Device.cpu or (wanted == Device.auto and available == 0):
        return "cpu"
    if available < topology.nodes.devices:
        raise InputError(
            f"topology.nodes.devices: {topology.nodes.devices} CUDA devices are wanted, this host has {available}; "
            "lower it, or set topology.nodes.device=cpu"
        )
    return "cuda"


def visible_devices(slots: Sequence[int]) -> str:
    """Returns CUDA_VISIBLE_DEVICES for processes that may use some of the stack's devices; "": all that are seen here.

    Slots are numbered over all hosts, devices on each. A host of which this process sees a part only is taken as
    having that part.

    Args:
        slots: numbers of devices in the stack.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[: torch.cuda.device_count()]
    names = seen if seen != [""] else [str(index) for index in range(torch.cuda.device_count())]
    return ",".join(dict.fromkeys(names[slot % len(names)] for slot in slots)) if names else ""


def resolve_precision(wanted: Precision, device: str) -> Precision:
    """Returns the number format that `auto` means on a device: bf16 only where the hardware multiplies in it.

    Raises:
        InputError: if fp16 is asked for on the processor.
    """
    if wanted == Precision.fp16 and device == "cpu":
        raise InputError("train.precision: fp16 needs a CUDA device and this run is on the processor; use bf16 or fp32")
    if wanted != Precision.auto:
        return wanted
    return Precision.bf16 if computes_bf16(device) else Precision.fp32


def resolve_attention(wanted: AttentionBackend, device: str, precision: Precision) -> AttentionBackend:
    """Returns who computes attention on a device, never `auto`: flash-attn where it can, else torch.

    Args:
        wanted: as the manifest has it.
        device: `cpu` or `cuda`.
        precision: of the run, resolved.

    Raises:
        InputError: if flash-attn is asked for and cannot.
    """
    if wanted == AttentionBackend.sdpa:
        return wanted
    hindrance = _what_hinders_flash(device, precision)
    if hindrance is None:
        return AttentionBackend.flash
    if wanted == AttentionBackend.flash:
        raise InputError(f"train.attention: flash {hindrance}; or set train.attention=sdpa")
    return AttentionBackend.sdpa


def _what_hinders_flash(device: str, precision: Precision) -> str | None:
    if device != "cuda":
        return "needs a CUDA device and this run is on the processor"
    if precision == Precision.fp32:
        return "computes in bf16 or fp16 and train.precision is fp32; set train.precision=bf16"
    if not flash_installed():
        return "needs the package flash-attn; install the extra `gpu` (pip install 'yuan-stack[gpu]')"
    return None


def computes_bf16(device: str) -> bool:
    """Tells whether a device has bf16 arithmetic of its own (not emulated by conversion to fp32)."""
    if device == "cuda":
        if not torch.cuda.is_available():
            return True  # the run is on other hosts: every device since 2020 (Ampere) has it
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
