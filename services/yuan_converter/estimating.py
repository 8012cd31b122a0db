"""What a conversion would write, need and take, before it runs; also of a network of which there is only a description.

The disk's speed is measured where the output is to be: 256 MB written through, dropped from memory and read back.
"""

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor

from yuan_checkpoint import Source, open_checkpoint
from yuan_checkpoint.checkpoint import Origin
from yuan_checkpoint.conversion import Conversion
from yuan_checkpoint.description import Area, Network
from yuan_checkpoint.megatron import megatron_target
from yuan_checkpoint.targets import file_size
from yuan_converter.conversion import planned, source_folder, stages_of
from yuan_converter.places import artifact_place
from yuan_events import InputError
from yuan_jobs.artifacts import ArtifactStore
from yuan_jobs.home import Home
from yuan_manifest import load_cluster
from yuan_manifest.schema import ConvertJob, Layout
from yuan_model import YuanConfig

_PROBE_BYTES = 256 << 20
_PROBE_PIECE = 1 << 20


@dataclass(frozen=True)
class Described:
    """A source of which sizes alone are known.

    Attributes:
        network: its parameters.
        origin: what it says of itself.
        files, size_bytes: that it has.
        text: for people.
        source: of its parameters' number formats.
    """

    network: Network
    origin: Origin
    files: int
    size_bytes: int
    text: str
    source: Source


@dataclass(frozen=True)
class Estimate:
    """What a conversion comes to. Bytes, seconds, MB/s; bytes_free: of the disk of `place`."""

    source: str
    source_files: int
    source_bytes: int
    target: str
    target_files: int
    target_bytes: int
    largest_file: int
    parameters: int
    workers: int
    peak_memory: int
    place: str
    bytes_free: int | None
    read_mb_per_second: float
    write_mb_per_second: float
    seconds: float
    files: list[tuple[str, int]]


class _Sizes:
    """A source without values: number formats alone."""

    def __init__(self, network: Network, dtype: torch.dtype) -> None:
        self.network = network
        self._dtype = dtype

    def dtype(self, name: str) -> torch.dtype:
        del name
        return self._dtype

    def read(self, name: str, area: Area, out: Tensor) -> None:
        raise NotImplementedError("a description has no values")

    def check_unchanged(self) -> None:
        pass


def opened_or_described(job: ConvertJob, cluster: str | None, tensor: int, stages: str) -> Described:
    """Returns the source of a job: a checkpoint, or a file that describes a network.

    Args:
        job: whose.
        cluster: the cluster's file, whose store holds artifacts.
        tensor: tensor size of what is only described.
        stages: its stages; empty: as its manifest's topology says, else one.

    Raises:
        InputError: if it is neither.
    """
    path = source_folder(job)
    if path is not None and path.is_file():
        return _described(path, tensor, stages)
    if path is None:
        store = ArtifactStore.open(Home.of(load_cluster(cluster).cluster))
        path = artifact_place(str(job.inputs.model), store).folder
        store.registry.close()
    checkpoint = open_checkpoint(path, strict=job.strict)
    origin = checkpoint.origin
    division = f"tensor {origin.tensor}, pipeline {max(1, len(origin.stages))}"
    return Described(
        checkpoint.network,
        origin,
        len(checkpoint.files),
        checkpoint.size_bytes,
        f"{path} ({origin.layout}, {division})",
        checkpoint,
    )


def estimate(job: ConvertJob, source: Described) -> Estimate:
    """Returns what a conversion comes to.

    Raises:
        InputError: if the target cannot be divided so, or its place cannot be written to.
    """
    conversion = planned(job.target, source.source, source.origin)
    sizes = [(file.path, file_size(file, conversion.dtypes(file))) for file in conversion.target.files]
    total = sum(size for _, size in sizes)
    place = _place(job)
    reading, writing = measured_speed(place)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    target = job.target
    division = ""
    if target.layout == Layout.megatron:
        stages = stages_of(target.stages, conversion.network.config.num_hidden_layers)
        division = f", tensor {target.tensor}, pipeline {len(stages)}"
    return Estimate(
        source=source.text,
        source_files=source.files,
        source_bytes=source.size_bytes,
        target=f"{target.layout.value}{division}, {target.dtype or 'numbers as stored'}",
        target_files=len(sizes),
        target_bytes=total,
        largest_file=max(size for _, size in sizes),
        parameters=conversion.network.config.parameter_count(),
        workers=conversion.workers(),
        peak_memory=used + conversion.peak_bytes(),
        place=str(place),
        bytes_free=shutil.disk_usage(place).free,
        read_mb_per_second=reading / 1e6,
        write_mb_per_second=writing / 1e6,
        seconds=source.size_bytes / reading + total / writing,
        files=sizes,
    )


def measured_speed(place: Path) -> tuple[float, float]:
    """Returns bytes a second that a disk reads and writes.

    Raises:
        InputError: if nothing can be written there.
    """
    piece = os.urandom(_PROBE_PIECE)
    size = min(_PROBE_BYTES, shutil.disk_usage(place).free // 4 // _PROBE_PIECE * _PROBE_PIECE)
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".yuan-probe-") as file:
            descriptor = file.fileno()
            started = time.monotonic()
            for _ in range(0, size, _PROBE_PIECE):
                os.write(descriptor, piece)
            os.fsync(descriptor)
            wrote = time.monotonic()
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_DONTNEED)
            began = time.monotonic()
            for position in range(0, size, _PROBE_PIECE):
                os.pread(descriptor, _PROBE_PIECE, position)
            read = time.monotonic()
    except OSError as error:
        raise InputError(f"{place}: {(error.strerror or str(error)).lower()}") from error
    smallest = 1e-6
    return size / max(smallest, read - began), size / max(smallest, wrote - started)


def _place(job: ConvertJob) -> Path:
    """Returns the nearest folder that is there of where the output is to be."""
    if job.outputs.path is None:
        place = Home.of(load_cluster(None).cluster).path
    else:
        place = Path(job.outputs.path).expanduser().absolute()
    return next(parent for parent in (place, *place.parents) if parent.is_dir())


def _described(path: Path, tensor: int, stages: str) -> Described:
    config, said = _config(path)
    network = Network(config)
    layers = config.num_hidden_layers
    division: Any = said if not stages else _stages(stages)
    counts = stages_of(division or 1, layers)
    sizes = _Sizes(network, torch.bfloat16)
    target = megatron_target(network, tensor, counts)
    conversion = Conversion(sizes, network, target)
    text = f"{path} (only described: as megatron in bf16, tensor {tensor}, pipeline {len(counts)})"
    origin = Origin("megatron", tensor, tuple(counts))
    return Described(network, origin, len(target.files), conversion.file_bytes, text, sizes)


def _config(path: Path) -> tuple[YuanConfig, Any]:
    """Returns the network that a config.json or a manifest describes, and the stages that the latter's topology has."""
    try:
        tree: Any = (
            _merged(path, 0) if path.suffix in {".yaml", ".yml"} else json.loads(path.read_text(encoding="utf-8"))
        )
        if not isinstance(tree, dict):
            raise InputError(f"{path}: describes no network")
        values = cast("dict[str, Any]", tree)
        model: Any = values.get("model", values)
        marks = ("layout", "schema_version")
        stages: Any = values.get("topology", {}).get("parallel", {}).get("stages")
        if "model_type" in model or "architectures" in model:
            return YuanConfig.from_hugging_face(model), None
        config = YuanConfig.from_dict({key: value for key, value in model.items() if key not in marks})
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: describes no network: {' '.join(str(error).split())}") from error
    return config, stages if isinstance(stages, list) else None


def _merged(path: Path, depth: int) -> dict[str, Any]:
    """Returns a manifest's tree with those that it extends below it; nothing in it is checked but what is used."""
    tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(tree, dict) or depth > 10:
        raise InputError(f"{path}: describes no network")
    own = cast("dict[str, Any]", tree)
    extended = own.pop("extends", [])
    whole: dict[str, Any] = {}
    for other in [extended] if isinstance(extended, str) else extended:
        _lay_over(whole, _merged(path.parent / other, depth + 1))
    _lay_over(whole, own)
    return whole


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], cast("dict[str, Any]", value))
        else:
            below[key] = value


def _stages(text: str) -> Any:
    parts = text.strip("[]").split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"--source-stages: expected a number, or layers per stage (2,2,3), found {text!r}")
    counts = [int(part) for part in parts]
    return counts[0] if len(counts) == 1 else counts
