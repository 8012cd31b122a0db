"""How fast, and in how little memory, is a checkpoint reshaped? Against `cp`, in one run.

A synthetic checkpoint of the original's layout (pipeline 4, bf16, 4 GB unless told otherwise) is converted to tensor 2
in a process of its own, whose peak resident memory is measured; `cp -r` and a sync of the same files, in turns with it,
is what it is held against. Every part ends with its data on the disk.

    benchmarks/convert.py [--gigabytes 4] [--folder DIR] [--keep]
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = (6, 7, 7, 6)
HIDDEN = 2048


def main() -> None:
    """Makes the checkpoint, copies and converts it, and prints ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gigabytes", type=float, default=4.0, help="of the synthetic checkpoint (default %(default)s)"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: the temporary folder)")
    parser.add_argument("--convert", nargs=2, type=Path, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert:
        _convert(*options.convert)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        _measure(Path(scratch), options.gigabytes)


def _measure(scratch: Path, gigabytes: float) -> None:
    source = scratch / "source"
    size = _make(source, gigabytes)
    print(f"source: pipeline {len(STAGES)}, bf16, {size / 1e9:.2f} GB; target: tensor 2, same format")
    copies, conversions, peaks = [], [], []
    for number in range(2):
        copies.append(_copy(source, scratch / f"copy-{number}"))
        seconds, peak = _conversion(source, scratch / f"out-{number}")
        conversions.append(seconds)
        peaks.append(peak)
    copy, conversion = min(copies), min(conversions)
    print(f"cp -r and sync   {size / copy / 1e9:5.2f} GB/s   ({', '.join(f'{one:.2f}' for one in copies)} s)")
    print(
        f"yuan convert     {size / conversion / 1e9:5.2f} GB/s   ({', '.join(f'{one:.2f}' for one in conversions)} s)"
    )
    print(f"ratio            {copy / conversion:5.2f} of cp's speed (0.50 is asked for)")
    print(f"peak resident    {max(peaks) / 2**30:5.2f} GiB (1 GB is asked for)")


def _make(folder: Path, gigabytes: float) -> int:
    """Writes random weights in the original's layout, a block at a time; returns bytes."""
    import torch  # noqa: PLC0415 - the copying needs no torch

    from yuan_checkpoint.conversion import Conversion, write_checkpoint  # noqa: PLC0415
    from yuan_checkpoint.description import Area, Network  # noqa: PLC0415
    from yuan_checkpoint.megatron import megatron_target  # noqa: PLC0415
    from yuan_model import YuanConfig  # noqa: PLC0415

    layers = sum(STAGES)
    hidden = HIDDEN
    while 2 * YuanConfig(64000, hidden, layers, 16, 4 * hidden, 4096).parameter_count() > gigabytes * 1e9:
        hidden -= 32
    network = Network(YuanConfig(64000, hidden, layers, 16, 4 * hidden, 4096))

    class Noise:
        def __init__(self) -> None:
            self.network = network
            self.block = torch.randn(1 << 22).mul_(0.02).bfloat16()

        def dtype(self, name: str) -> torch.dtype:
            del name
            return torch.bfloat16

        def read(self, name: str, area: Area, out: torch.Tensor) -> None:
            del name
            count = area.rows * area.columns
            start = area.row * 977 % 4096
            repeats = -(-count // (len(self.block) - start))
            out.copy_(self.block[start:].repeat(repeats)[:count].reshape(area.rows, area.columns))

        def check_unchanged(self) -> None:
            pass

    write_checkpoint(Conversion(Noise(), network, megatron_target(network, 1, STAGES, iteration="1000")), folder)
    return sum(file.stat().st_size for file in folder.rglob("*.pt"))


def _copy(source: Path, target: Path) -> float:
    subprocess.run(["sync"], check=True)
    started = time.monotonic()
    subprocess.run(["cp", "-r", source, target], check=True)
    subprocess.run(["sync", *[str(file) for file in target.rglob("*.pt")]], check=True)
    seconds = time.monotonic() - started
    shutil.rmtree(target)
    return seconds


def _conversion(source: Path, target: Path) -> tuple[float, int]:
    """Returns seconds of the conversion itself and the peak resident bytes of the whole process."""
    subprocess.run(["sync"], check=True)
    command = [sys.executable, __file__, "--convert", str(source), str(target)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    shutil.rmtree(target)
    told = json.loads(said.stdout)
    return told["seconds"], told["peak"]


def _convert(source: Path, target: Path) -> None:
    from yuan_checkpoint import Conversion, open_checkpoint, write_checkpoint  # noqa: PLC0415
    from yuan_checkpoint.megatron import megatron_target  # noqa: PLC0415

    started = time.monotonic()
    opened = open_checkpoint(source)
    layout = megatron_target(opened.network, 2, [opened.config.num_hidden_layers], iteration="1000")
    write_checkpoint(Conversion(opened, opened.network, layout), target)
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()
