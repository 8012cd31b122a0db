"""`python -m yuan_converter inspect | diff | dry-run`: looks at checkpoints, plans a conversion. Nothing is written.

What is shown is `yuan_checkpoint`'s and `estimating`'s; here it is put into lines, or JSON.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from yuan_checkpoint import Checkpoint, open_checkpoint
from yuan_checkpoint.inspection import Difference, Inspection, TensorFacts, differences, inspect
from yuan_converter.estimating import Estimate, estimate, opened_or_described
from yuan_converter.places import place_of
from yuan_events.printing import duration, without_controls
from yuan_jobs.arguments import ArgumentParser
from yuan_manifest import load_job
from yuan_manifest.schema import ConvertJob

READ_AT_ONCE = 2_000_000_000
"""Bytes of a checkpoint whose values are read for statistics and hashes unless told otherwise."""


def inspect_command(arguments: Sequence[str]) -> int:
    """Says what a checkpoint is.

    Raises:
        InputError: if it is none.
    """
    parser = _parser("inspect")
    parser.add_argument("checkpoint", help="a folder, or a model artifact")
    parser.add_argument("--full", action="store_true", help="read all values, however many, for statistics and hashes")
    parser.add_argument("--headers", action="store_true", help="read headers alone")
    options = parser.parse_args(list(arguments))
    place = place_of(options.checkpoint, options.cluster)
    checkpoint = open_checkpoint(place.folder, strict=False)
    values = not options.headers and (options.full or checkpoint.size_bytes <= READ_AT_ONCE)
    found = inspect(checkpoint, values=values, hashes=place.hashes, hash_files=values)
    if options.json:
        _write(json.dumps(plain(found), indent=2, ensure_ascii=False))
        return 0
    for line in _lines(found, place.name, values=values):
        _write(line)
    return 0


def diff_command(arguments: Sequence[str]) -> int:
    """Says in which tensors two checkpoints differ; returns 1 if they do.

    Raises:
        InputError: if one of them is none.
    """
    parser = _parser("diff")
    parser.add_argument("first", help="a folder, or a model artifact")
    parser.add_argument("second", help="another, in any layout")
    options = parser.parse_args(list(arguments))
    places = [place_of(given, options.cluster) for given in (options.first, options.second)]
    first, second = (open_checkpoint(place.folder, strict=False) for place in places)
    settings = _settings(first, second)
    different = total = 0
    for one in differences(first, second):
        total += 1
        different += not one.same
        if options.json:
            _write(json.dumps(_finite(asdict(one)), ensure_ascii=False))
        elif not one.same:
            _write(_difference_line(one))
    if not options.json:
        for line in settings:
            _write(line)
        _write(f"{different} of {total} tensors differ" if different else f"all {total} tensors are the same")
    return 1 if different else 0


def dry_run_command(arguments: Sequence[str]) -> int:
    """Says what a conversion would write, need and take.

    Raises:
        InputError: if it cannot be.
    """
    parser = _parser("dry-run")
    parser.add_argument("manifest", type=Path, help="of a convert job")
    parser.add_argument("--source-tensor", type=int, default=1, help="tensor size of a source that is only described")
    parser.add_argument("--source-stages", default="", help="its stages: a number, or layers per stage")
    options = parser.parse_args(list(arguments))
    job = load_job(options.manifest)
    if not isinstance(job, ConvertJob):
        parser.error(f"{options.manifest}: kind {job.kind.value} converts nothing")
    source = opened_or_described(job, options.cluster, options.source_tensor, options.source_stages)
    found = estimate(job, source)
    if options.json:
        _write(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        for line in _estimate_lines(found):
            _write(line)
    return 0


def plain(inspection: Inspection) -> dict[str, Any]:
    """Returns an inspection as JSON's types; numbers that JSON has no form for are null."""
    return {**_finite(asdict(inspection)), "parameter_count": inspection.parameter_count}


# --- lines -------------------------------------------------------------------------------------------------------


def _lines(found: Inspection, name: str, *, values: bool) -> Iterable[str]:
    yield without_controls(name)
    stages = "all layers" if len(found.stages) <= 1 else f"stages {list(found.stages)}"
    rows = [
        ("layout", found.layout),
        ("topology", f"tensor {found.tensor}, pipeline {max(1, len(found.stages))} ({stages})"),
        ("step", "not said" if found.step is None else str(found.step)),
        ("numbers", ", ".join(f"{dtype} {count:,}" for dtype, count in found.dtypes.items())),
        ("size", f"{found.size_bytes / 1e6:,.1f} MB in {len(found.files)} files"),
        ("parameters", f"{found.parameter_count:,}"),
        *((f"  {part.replace('_', ' ')}", f"{count:,}") for part, count in found.parameters.items() if count),
        ("network", ", ".join(f"{key} {value}" for key, value in found.config.items())),
        *(("unknown", one) for one in found.unknown),
        *(("differs", one) for one in found.differing),
    ]
    for label, text in rows:
        yield f"  {label:<20} {text}"
    yield "files" + ("" if any(one.sha256 for one in found.files) else " (hashes: --full reads every file)")
    for file in found.files:
        yield f"  {file.name}  {file.size_bytes:,}  {file.sha256 or ''}".rstrip()
    yield "tensors" + ("" if values else " (statistics: --full reads every value)")
    width = max((len(one.name) for one in found.tensors), default=0)
    for one in found.tensors:
        yield f"  {without_controls(one.name):<{width}}  {_tensor(one)}"


def _tensor(one: TensorFacts) -> str:
    shape = f"{one.dtype} {list(one.shape)}"
    told = one.statistics
    if told is None:
        return f"{shape}  {one.file}"
    numbers = f"{told.smallest:.4g} … {told.largest:.4g}, mean {told.mean:.3g}, std {told.deviation:.3g}"
    wrong = f"  {told.nans} NaN, {told.infinities} infinite" if told.nans or told.infinities else ""
    return f"{shape}  {numbers}{wrong}  {one.file}"


def _difference_line(one: Difference) -> str:
    parts = [one.remark] if one.remark else []
    if one.values:
        parts.append(f"{one.values:,} values, largest difference {one.largest:.4g}, relative {one.relative:.4g}")
    return f"{one.name}: {'; '.join(parts)}"


def _estimate_lines(found: Estimate) -> Iterable[str]:
    yield f"source  {found.source}: {found.source_files} files, {_bytes(found.source_bytes)}"
    yield f"target  {found.target}: {found.target_files} files, {_bytes(found.target_bytes)}"
    yield f"        the largest file {_bytes(found.largest_file)}, {found.parameters:,} parameters"
    yield f"memory  {_bytes(found.peak_memory)} at most, {found.workers} files side by side"
    if found.bytes_free is not None:
        enough = "" if found.bytes_free >= found.target_bytes else ": TOO LITTLE"
        yield f"disk    {_bytes(found.bytes_free)} free at {found.place}{enough}"
    speeds = f"reads {found.read_mb_per_second:,.0f} and writes {found.write_mb_per_second:,.0f} MB/s"
    yield f"time    {duration(found.seconds)} at this disk's measured speed: it {speeds}"
    yield "files"
    for name, size in found.files:
        yield f"  {name}  {size:,}"


def _settings(first: Checkpoint, second: Checkpoint) -> list[str]:
    return [
        f"config {field.name}: {ours} and {theirs}"
        for field in fields(first.config)
        if (ours := getattr(first.config, field.name)) != (theirs := getattr(second.config, field.name))
    ]


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB ({size:,} bytes)"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _parser(name: str) -> argparse.ArgumentParser:
    parser = ArgumentParser(prog=f"python -m yuan_converter {name}", allow_abbrev=False, description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("-f", "--cluster", help="the cluster's file, whose store holds the artifacts")
    return parser


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
