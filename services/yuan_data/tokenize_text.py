"""A `tokenize` job: text and a tokenizer to a dataset folder.

Where the stack has several workers, each does shards of it as parts of the job; whole shards lie in the job's run
folder, where a later attempt finds them.
"""

import json
import os
from pathlib import Path
from typing import Any

from yuan_corpus import CorpusWork, Cutting, DocumentMode, Reading, Tokenizer
from yuan_corpus.cleaning.pipeline import REPORT_FILE_NAME
from yuan_corpus.documents import SkipLog
from yuan_corpus.sources import stamp_of
from yuan_data.gather import TRAINING
from yuan_data.text import files_of_stages, reading, skipped_lines, stages, text_files
from yuan_events import Message
from yuan_events.printing import counted
from yuan_jobs import UNFINISHED, WorkContext, WorkResult
from yuan_manifest.schema import SpecialStrings, TokenizeJob


def tokenize_work(context: WorkContext[TokenizeJob]) -> WorkResult:
    """Cuts the text that a manifest names, or hands it out in parts.

    Raises:
        CorpusError: if the text or the tokenizer cannot be used.
        Interrupted: if it was asked to stop; whole shards are kept.
    """
    work = _corpus_work(context)
    missing = work.missing()
    if (there := len(work.shards) - len(missing)) and missing:
        context.sink.emit(Message(f"{there} of {len(work.shards)} shards are there already"))
    if context.divisible and work.divisible and len(missing) > 1:
        context.sink.emit(Message(f"{len(missing)} shards are handed out to the workers of the stack"))
        return WorkResult(parts=[shard.name for shard in missing])
    work.make(workers=_workers(context), sink=context.sink, should_stop=context.should_stop)
    skipped = SkipLog()
    statistics = work.assemble(skipped=skipped, sink=context.sink, should_stop=context.should_stop)
    context.sink.emit(
        Message(
            f"{counted(statistics.documents, 'document')}, {counted(statistics.tokens, 'token')}, "
            f"{statistics.bytes_per_token:.2f} bytes of text a token"
        )
    )
    for line in skipped_lines(skipped):
        context.sink.emit(Message(line))
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


def tokenize_part(context: WorkContext[TokenizeJob]) -> WorkResult:
    """Makes one shard of a job.

    Raises:
        CorpusError: if its text or the tokenizer cannot be used.
        Interrupted: if it was asked to stop.
    """
    work = _corpus_work(context)
    work.make([context.part], workers=_workers(context), sink=context.sink, should_stop=context.should_stop)
    return WorkResult({"shard": context.part})


def _corpus_work(context: WorkContext[TokenizeJob]) -> CorpusWork:
    job = context.job
    kept = context.run / UNFINISHED
    kept.mkdir(parents=True, exist_ok=True)
    requests = context.inputs.get("requests")
    cutting = Cutting(
        Tokenizer.load(context.inputs["tokenizer"].path),
        reading(job.inputs) if requests is None else Reading(DocumentMode.LINES),
        stages(job),
        special_strings=job.tokenize.special_strings is SpecialStrings.honour,
        rules=" ".join(f"{path} {stamp_of(path)}" for path in files_of_stages(job)),
    )
    return CorpusWork(
        text_files(job.inputs) if requests is None else [requests.path / TRAINING],
        cutting,
        context.output,
        kept=kept,
        shard_bytes=job.tokenize.shard_mib << 20,
        shuffle_seed=job.tokenize.shuffle_seed,
    )


def _workers(context: WorkContext[TokenizeJob]) -> int:
    return context.job.tokenize.workers or available_cores()


def _in_short(report: Path) -> list[dict[str, Any]]:
    """Returns what each stage did, without samples."""
    keys = ("stage", "documents", "dropped", "changed", "characters_in", "characters_out")
    stages: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["stages"]
    return [{key: stage[key] for key in keys} for stage in stages]


def available_cores() -> int:
    """Returns the cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
