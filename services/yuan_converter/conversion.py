"""Rewrites a model in another layout or number format, tensor by tensor: memory is that of one file.

The layouts themselves are `yuan_checkpoint`'s; here is what a conversion carries over, refuses and reports.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yuan_checkpoint import open_model, write_hugging_face, write_native
from yuan_events import InputError, Progress
from yuan_jobs import WorkContext, WorkResult, digest_of_files
from yuan_manifest.schema import ConvertJob, Layout
from yuan_model import ModelFolder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENIZER_FILES = ("tokenizer.model", "special_tokens.json")


def convert_work(context: WorkContext[ConvertJob]) -> WorkResult:
    """Converts the model that a convert job names; its tokenizer goes along.

    Raises:
        InputError: if the source is no whole model, or the target has no way to say it.
        Interrupted: if it was asked to stop.
    """
    job = context.job
    source = open_model(source_folder(job) or context.inputs["model"].path)
    tokenizer = find_tokenizer(source.path)
    dtype = None if job.target.dtype is None else DTYPES[job.target.dtype]
    tensors = _reported(context, source, dtype)
    if job.target.layout == Layout.native:
        write_native(context.output, source.config, tensors)
    else:
        sep = _sep_token_id(source, tokenizer)
        write_hugging_face(context.output, source.config, tensors, sep_token_id=sep, tokenizer=tokenizer)
    if tokenizer is not None:
        # `transformers` looks for it beside the weights.
        target = context.output / "tokenizer" if job.target.layout == Layout.native else context.output
        target.mkdir(exist_ok=True)
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copyfile(tokenizer / name, target / name)
    return WorkResult(
        {
            "source_layout": Layout.native if source.native else Layout.huggingface,
            "target_layout": job.target.layout,
            "dtype": job.target.dtype or "as stored",
            "parameters": source.config.parameter_count(),
            "tokenizer": tokenizer is not None,
        }
    )


def source_folder(job: ConvertJob) -> Path | None:
    """Returns the folder that a job converts, or None where it converts an artifact."""
    return None if job.inputs.path is None else Path(job.inputs.path).expanduser()


def fingerprint(job: ConvertJob) -> Mapping[str, str]:
    """Returns the digest of a source folder's files, as far as a conversion reads them.

    Raises:
        InputError: if it is no whole model.
    """
    folder = source_folder(job)
    if folder is None:
        return {}
    files = open_model(folder).files
    tokenizer = find_tokenizer(folder)
    if tokenizer is not None:
        files = [*files, *(tokenizer / name for name in TOKENIZER_FILES if (tokenizer / name).is_file())]
    return {"path": digest_of_files(files)}


def find_tokenizer(folder: Path) -> Path | None:
    """Returns the tokenizer in a model's folder: `tokenizer/`, or beside the weights where published models have it."""
    return next((place for place in (folder / "tokenizer", folder) if (place / "tokenizer.model").is_file()), None)


def _sep_token_id(source: ModelFolder, tokenizer: Path | None) -> int | None:
    """Returns the id of `<sep>`, which the network has no use for and Hugging Face's configs have."""
    if isinstance(source.values.get("sep_token"), int):
        return source.values["sep_token"]
    table = tokenizer / "special_tokens.json" if tokenizer else None
    if table is None or not table.is_file():
        return None
    ids: dict[str, Any] = json.loads(table.read_text(encoding="utf-8"))
    return ids.get("<sep>")


def _reported(
    context: WorkContext[ConvertJob], source: ModelFolder, dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    total = len(source.names)
    for done, (name, tensor) in enumerate(source.tensors()):
        context.stop_if_asked()
        context.sink.emit(Progress("convert", done, total, "tensors"))
        yield name, _converted(source, name, tensor, dtype)
    context.sink.emit(Progress("convert", total, total, "tensors"))


def _converted(source: ModelFolder, name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    converted = tensor.to(dtype=dtype)
    if dtype == torch.float16 and bool((converted.isinf() & ~tensor.isinf()).any()):
        raise InputError(
            f"{source.path}: tensor {name} has values beyond fp16's largest, 65504; set target.dtype to bf16 or fp32"
        )
    return converted
