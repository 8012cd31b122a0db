"""Converts a checkpoint: opens it, divides it anew, compares both sides, and carries its tokenizer over.

Layouts, blocks and files are those of `yuan_checkpoint`; here is what a conversion is asked for, refuses and reports.
Files are written beside the output under a hidden name that outlives an attempt, so that the next one goes on with
those that are finished; they are moved into the output once all is right.
"""

import json
import math
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from yuan_checkpoint import (
    Checkpoint,
    CheckpointError,
    Conversion,
    LayoutError,
    Source,
    open_checkpoint,
    write_checkpoint,
)
from yuan_checkpoint.adapters import Merged
from yuan_checkpoint.checkpoint import Origin
from yuan_checkpoint.conversion import QuantizationError, conversion_identity, plain_errors
from yuan_checkpoint.description import Network
from yuan_checkpoint.huggingface import huggingface_target
from yuan_checkpoint.megatron import RELEASE, megatron_target
from yuan_checkpoint.native import native_target
from yuan_checkpoint.targets import FileKind, TargetLayout
from yuan_checkpoint.verification import Verification, bytes_to_verify, verify
from yuan_corpus import Tokenizer
from yuan_events import InputError, Message, Progress, WorkFailed
from yuan_events.printing import duration
from yuan_jobs import WorkContext, WorkResult
from yuan_jobs.identity import digest_of
from yuan_manifest.schema import ConvertJob, Layout, TargetSection, WeightFormat
from yuan_manifest.values import is_list
from yuan_model import YuanConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}
TOKENIZER_FILES = ("tokenizer.model", "special_tokens.json")
QUANTIZATION_FILE = "quantization.json"
"""What int8 has cost each tensor."""

_SHOWN = 5
_SPARE = 1.01
"""Of the disk: file systems need some for themselves."""


def convert_work(context: WorkContext[ConvertJob]) -> WorkResult:
    """Converts the checkpoint that a convert job names; its tokenizer goes along.

    Raises:
        InputError: if the source is no whole checkpoint, or the target has no way to say it.
        WorkFailed: if what was written does not compute the same.
        Interrupted: if it was asked to stop.
    """
    job = context.job
    checkpoint = open_checkpoint(source_folder(job) or context.inputs["model"].path, strict=job.strict)
    try:
        _warn(context, checkpoint)
        adapter = adapter_folder(job) or (context.inputs["adapter"].path if "adapter" in context.inputs else None)
        source = merged_source(checkpoint, adapter)
        tokenizer = find_tokenizer(checkpoint.path)
        conversion = planned(job.target, source, checkpoint.origin, tokenizer)
        partial = partial_folder(context.output)
        try:
            return _converted(context, checkpoint, conversion, tokenizer, partial)
        except (InputError, WorkFailed):
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        checkpoint.close()


def planned(target: TargetSection, source: Source, origin: Origin, tokenizer: Path | None = None) -> Conversion:
    """Returns what a target section means for a source.

    Args:
        target: of the manifest.
        source: the checkpoint, perhaps with additions, or a description of one.
        origin: what it says of itself.
        tokenizer: that goes along.

    Raises:
        LayoutError: if the target has no such network, or cannot divide it so.
    """
    network = _network(target, source.network, tokenizer)
    dtype = None if target.dtype is None else DTYPES[target.dtype]
    made: TargetLayout
    if target.layout == Layout.native:
        made = native_target(network, int8=dtype == torch.int8)
    elif target.layout == Layout.megatron:
        taken = origin.values if origin.layout == "megatron" else {}
        iteration = target.iteration or (str(origin.step) if origin.step else RELEASE)
        made = megatron_target(
            network,
            target.tensor,
            stages_of(target.stages, network.config.num_hidden_layers),
            iteration=iteration,
            multiple=target.vocab_multiple,
            values=taken,
        )
    else:
        made = huggingface_target(
            network,
            {name: dtype or source.dtype(name) for name in network.shapes},
            kind=FileKind.torch if target.format == WeightFormat.bin else FileKind.safetensors,
            shard_bytes=int(target.shard_gigabytes * 1e9),
            sep_token_id=_sep_token_id(origin.values if origin.layout == "huggingface" else {}, tokenizer),
            tokenizer=tokenizer,
        )
    return Conversion(source, network, made, dtype)


def stages_of(stages: Any, layers: int) -> list[int]:
    """Returns layers per stage: a list as it is, a number of stages divided evenly, the larger ones last.

    Raises:
        LayoutError: if there are fewer layers than stages.
    """
    if is_list(stages):
        return [int(count) for count in stages]
    if stages > layers:
        raise LayoutError(f"stages: {stages} are more than the model's {layers} layers")
    small, larger = divmod(layers, int(stages))
    return [small + (stage >= stages - larger) for stage in range(int(stages))]


def merged_source(checkpoint: Checkpoint, adapter: Path | None) -> Source:
    """Returns a checkpoint with the additions of an adapter, where there is one.

    Raises:
        InputError: if the adapter is not one of this network's, or its model has it already.
    """
    if adapter is None:
        return checkpoint
    if adapter.resolve() == checkpoint.path.resolve():
        raise InputError(
            f"inputs.adapter: {adapter} is the model itself, whose weights have the additions in them already; name "
            "the model that it was trained from as the source"
        )
    return Merged(checkpoint, adapter)


def source_folder(job: ConvertJob) -> Path | None:
    """Returns the folder that a job converts, or None where it converts an artifact."""
    return None if job.inputs.path is None else Path(job.inputs.path).expanduser()


def adapter_folder(job: ConvertJob) -> Path | None:
    """Returns the folder of a job's adapter, or None where it is an artifact, or there is none."""
    adapter = job.inputs.adapter
    return Path(adapter).expanduser() if adapter is not None and "/" in adapter else None


def fingerprint(job: ConvertJob) -> Mapping[str, str]:
    """Returns digests of the folders that a job reads: of their files' names, sizes, times.

    Not of their contents: reading hundreds of gigabytes twice would take as long as converting them.

    Raises:
        InputError: if the source is no whole checkpoint.
    """
    found: dict[str, str] = {}
    folder, adapter = source_folder(job), adapter_folder(job)
    if folder is not None:
        checkpoint = open_checkpoint(folder, strict=False)
        tokenizer = find_tokenizer(folder)
        beside = [] if tokenizer is None else _likeness(tokenizer, TOKENIZER_FILES)
        found["path"] = digest_of([checkpoint.identity, beside])
        checkpoint.close()
    if adapter is not None:
        if not adapter.is_dir():
            raise CheckpointError(f"inputs.adapter: {adapter}: no such folder")
        found["adapter"] = digest_of(_likeness(adapter, sorted(file.name for file in adapter.iterdir())))
    return found


def find_tokenizer(folder: Path) -> Path | None:
    """Returns the tokenizer in a model's folder: `tokenizer/`, or beside the weights where published models have it."""
    return next((place for place in (folder / "tokenizer", folder) if (place / "tokenizer.model").is_file()), None)


def partial_folder(output: Path) -> Path:
    """Returns where the files of a conversion are written: beside its output, under one name for all attempts."""
    name = re.sub(r"attempt-\d+$", "partial", output.name)
    return output.with_name(name if name != output.name else f".{name}.partial")


def check_room(conversion: Conversion, folder: Path) -> None:
    """Checks that the disk has room for what is still to be written.

    Raises:
        InputError: if it has not.
    """
    place = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    needed, free = int(conversion.bytes_to_write(folder) * _SPARE), shutil.disk_usage(place).free
    if needed > free:
        raise InputError(
            f"{place}: {free / 1e9:.2f} GB are free on this disk, the conversion writes {needed / 1e9:.2f} GB; make "
            "room, or write to another place"
        )


# --- the work ----------------------------------------------------------------------------------------------------


def _converted(
    context: WorkContext[ConvertJob],
    checkpoint: Checkpoint,
    conversion: Conversion,
    tokenizer: Path | None,
    partial: Path,
) -> WorkResult:
    check_room(conversion, partial)
    adapter = [str(context.job.inputs.adapter), *(handle.reference for handle in context.inputs.values())]
    identity = conversion_identity(conversion, (checkpoint.identity, adapter))
    started = time.monotonic()
    errors = write_checkpoint(conversion, partial, identity=identity, watch=_Reporter(context, conversion.tensor_bytes))
    seconds = time.monotonic() - started
    checked = _verified(context, conversion, partial)
    if errors:
        (partial / QUANTIZATION_FILE).write_text(json.dumps(plain_errors(errors), indent=2) + "\n", encoding="utf-8")
        _tell_quantization(context, errors)
    if tokenizer is not None:
        # `transformers` looks for it beside the weights.
        place = partial if context.job.target.layout == Layout.huggingface else partial / "tokenizer"
        place.mkdir(exist_ok=True)
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, place / name)
    checkpoint.check_unchanged()
    for path in sorted(partial.iterdir()):
        if not path.name.startswith("."):
            path.rename(context.output / path.name)
    shutil.rmtree(partial)
    target = context.job.target
    return WorkResult(
        {
            "source_layout": checkpoint.origin.layout,
            "target_layout": target.layout,
            "dtype": target.dtype or "as stored",
            "parameters": conversion.network.config.parameter_count(),
            "tensor": target.tensor,
            "stages": stages_of(target.stages, conversion.network.config.num_hidden_layers),
            "files": len(conversion.target.files),
            "size_bytes": conversion.file_bytes,
            "seconds": seconds,
            "tokenizer": tokenizer is not None,
            "largest_logit_difference": None if checked is None else checked.largest,
            **({"largest_int8_error": max(one.relative for one in errors)} if errors else {}),
        }
    )


@dataclass
class _Reporter:
    """Shows how many bytes are written and how long the rest takes; ends the conversion where that is wanted."""

    context: WorkContext[ConvertJob]
    total: int

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int) -> None:
        self.context.stop_if_asked()
        # What was finished before was not written in this time.
        self._first = done if self._first is None else self._first
        passed = time.monotonic() - self._started
        speed = (done - self._first) / passed if passed > 0 else 0.0
        detail = f"{speed / 1e6:,.0f} MB/s, {duration((self.total - done) / speed)} left" if speed > 0 else ""
        self.context.sink.emit(Progress("convert", done / 1e6, self.total / 1e6, "MB", detail))


def _verified(context: WorkContext[ConvertJob], conversion: Conversion, partial: Path) -> Verification | None:
    """Compares what was written with what it was made from.

    Raises:
        WorkFailed: if it does not compute the same, where it should.
    """
    wanted = context.job.verify
    if wanted is False or (wanted is None and not fits_in_memory(conversion.network.config)):
        if wanted is None:
            context.sink.emit(
                Message("not verified: the model does not fit into memory; --verify does it layer by layer")
            )
        return None
    written = open_checkpoint(partial, strict=True)

    def watch(done: int, total: int) -> None:
        context.stop_if_asked()
        context.sink.emit(Progress("verify", done, total, "layers"))

    try:
        checked = verify(conversion.source, written, watch)
    finally:
        written.close()
    told = (
        f"largest logit difference {checked.largest:.3g} over {checked.tokens} tokens "
        f"(logits vary by {checked.scale:.3g})"
    )
    exact = conversion.dtype is None or all(
        conversion.source.dtype(name) == conversion.dtype for name in conversion.source.network.shapes
    )
    if math.isnan(checked.largest) or (exact and checked.largest > 0 and not isinstance(conversion.source, Merged)):
        raise WorkFailed(f"what was written computes something else: {told}; nothing was kept")
    context.sink.emit(Message(f"verified: {told}, the same likeliest token at {checked.same_choice:.1%}"))
    return checked


def fits_in_memory(config: YuanConfig) -> bool:
    """Says whether a model's weights in fp32 fit into the memory that is free now."""
    needed = max(4 * config.parameter_count(), bytes_to_verify(config))
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return needed < int(line.split()[1]) * 1024
    return False


def _network(target: TargetSection, network: Network, tokenizer: Path | None) -> Network:
    """Returns the network that is written: with the target's vocabulary, and the end of documents of its tokenizer."""
    config = network.config
    size = config.vocab_size if target.vocab_size is None else target.vocab_size
    eod = config.eod_token_id
    if eod is None and tokenizer is not None:  # the original's checkpoints do not say it
        known = Tokenizer.load(tokenizer).eod_id
        eod = known if known < size else None
    if eod is not None and eod >= size:
        raise LayoutError(f"vocab_size: {size} rows have none for the model's end of documents, token {eod}")
    wanted = replace(config, vocab_size=size, eod_token_id=eod)
    return network if wanted == config else Network(wanted)


def _warn(context: WorkContext[ConvertJob], checkpoint: Checkpoint) -> None:
    """Names what is left out, and copies that differ.

    Raises:
        CheckpointError: if copies differ where that is no matter of taste.
    """
    lines = [f"{one}: unknown tensor, left out" for one in checkpoint.unknown]
    differing = checkpoint.differing_copies()
    head = next((line for line in differing if "lm_head" in line), None)
    if differing and (context.job.strict or head):
        raise CheckpointError(head or differing[0])
    lines += [f"{line}; the first is taken" for line in differing]
    for line in lines[:_SHOWN]:
        context.sink.emit(Message(line, level="warning"))
    if len(lines) > _SHOWN:
        context.sink.emit(Message(f"and {len(lines) - _SHOWN} more of the kind", level="warning"))


def _tell_quantization(context: WorkContext[ConvertJob], errors: list[QuantizationError]) -> None:
    worst = sorted(errors, key=lambda one: -one.relative)
    for one in worst[:_SHOWN]:
        context.sink.emit(Message(f"int8: {one.name}: relative error {one.relative:.4f}, largest {one.largest:.3g}"))
    context.sink.emit(Message(f"int8: {len(errors)} matrices; the error of each is in {QUANTIZATION_FILE}"))


def _sep_token_id(values: Mapping[str, Any], tokenizer: Path | None) -> int | None:
    """Returns the id of `<sep>`, which the network has no use for and Hugging Face's configs have."""
    if isinstance(values.get("sep_token"), int):
        return values["sep_token"]
    table = tokenizer / "special_tokens.json" if tokenizer else None
    if table is None or not table.is_file():
        return None
    ids: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return ids.get("<sep>")


def _likeness(folder: Path, names: Any) -> list[tuple[str, int, int]]:
    stats = [(name, (folder / name).stat()) for name in names if (folder / name).is_file()]
    return [(name, status.st_size, status.st_mtime_ns) for name, status in stats]
