"""A `tokenize` job: text and a tokenizer to a dataset folder."""

import json
import os
from pathlib import Path
from typing import Any

from yuan_corpus import Tokenizer, tokenize_corpus
from yuan_corpus.cleaning.pipeline import REPORT_FILE_NAME
from yuan_corpus.documents import SkipLog
from yuan_data.text import reading, skipped_line, stages, text_files
from yuan_events import Message
from yuan_jobs import WorkContext, WorkResult
from yuan_manifest.schema import TokenizeJob


def tokenize_work(context: WorkContext[TokenizeJob]) -> WorkResult:
    """Cuts the text that a manifest names.

    Raises:
        CorpusError: if the text or the tokenizer cannot be used.
        Interrupted: if it was asked to stop; nothing of it is kept.
    """
    inputs = context.job.inputs
    skipped = SkipLog()
    statistics = tokenize_corpus(
        text_files(inputs),
        Tokenizer.load(context.inputs["tokenizer"].path),
        context.output,
        reading=reading(inputs),
        skipped=skipped,
        cleaning=stages(context.job),
        workers=context.job.tokenize.workers or available_cores(),
        sink=context.sink,
        should_stop=context.should_stop,
    )
    context.sink.emit(
        Message(
            f"{statistics.documents:,} documents, {statistics.tokens:,} tokens, "
            f"{statistics.bytes_per_token:.2f} bytes of text a token"
        )
    )
    if skipped.count:
        context.sink.emit(Message(skipped_line(skipped)))
    cleaned = context.output / REPORT_FILE_NAME
    return WorkResult(
        {
            "documents": statistics.documents,
            "tokens": statistics.tokens,
            "bytes_per_token": statistics.bytes_per_token,
            "files": statistics.files,
            "source_bytes": statistics.source_bytes,
            "skipped": skipped.count,
            "vocab_size": statistics.vocab_size,
            "tokenizer_digest": statistics.tokenizer_digest,
            "cleaning": _in_short(cleaned) if cleaned.exists() else [],
        }
    )


def _in_short(report: Path) -> list[dict[str, Any]]:
    """Returns what each stage did, without samples."""
    keys = ("stage", "documents", "dropped", "changed", "characters_in", "characters_out")
    stages: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["stages"]
    return [{key: stage[key] for key in keys} for stage in stages]


def available_cores() -> int:
    """Returns the cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
