"""A `tokenizer` job: text to a tokenizer folder."""

from collections.abc import Iterator, Sequence

from yuan_corpus import Algorithm, Reading, Tokenizer, VocabularyError, train_tokenizer
from yuan_corpus.documents import SkipLog, TextSlice, expand, read_documents, slice_files
from yuan_corpus.training_text import LineSampler
from yuan_data.text import reading, skipped_line, text_files
from yuan_events import Message
from yuan_jobs import WorkContext, WorkResult
from yuan_manifest.schema import TokenizerJob

_MEASURED_BYTES = 2_000_000
"""Text that compression is measured on, about; it is spread over the whole corpus."""


def tokenizer_work(context: WorkContext[TokenizerJob]) -> WorkResult:
    """Trains the tokenizer that a manifest asks for.

    Raises:
        CorpusError: if the text or the vocabulary's size cannot be used.
        Interrupted: if it was asked to stop; nothing of it is kept.
    """
    inputs, wanted = context.job.inputs, context.job.tokenizer
    files = text_files(inputs)
    how, skipped = reading(inputs), SkipLog()
    slices = slice_files(files, how)
    source_bytes = sum(part.size for part in slices)
    limit = None if wanted.sample_megabytes is None else round(wanted.sample_megabytes * 1e6)
    context.sink.emit(Message(f"{len(files):,} files, {source_bytes / 1e6:.1f} MB of text"))
    try:
        tokenizer = train_tokenizer(
            _documents(slices, how, skipped),
            context.output,
            Algorithm(wanted.algorithm.value),
            wanted.vocab_size,
            sampler=LineSampler(limit, source_bytes, wanted.seed),
            sink=context.sink,
            should_stop=context.should_stop,
        )
    except VocabularyError as error:
        raise VocabularyError(f"tokenizer.{error}") from error
    compression = _bytes_per_token(tokenizer, slices, how)
    if skipped.count:
        context.sink.emit(Message(skipped_line(skipped)))
    context.sink.emit(Message(f"{tokenizer.vocab_size:,} pieces; {compression:.2f} bytes of text a token"))
    return WorkResult(
        {
            "vocab_size": tokenizer.vocab_size,
            "algorithm": wanted.algorithm.value,
            "bytes_per_token": round(compression, 4),
            "digest": tokenizer.digest,
            "files": len(files),
            "source_bytes": source_bytes,
            "skipped": skipped.count,
        }
    )


def _documents(slices: Sequence[TextSlice], how: Reading, skipped: SkipLog) -> Iterator[str]:
    for part in expand(slices, how):
        yield from read_documents(part, how, skipped)


def _bytes_per_token(tokenizer: Tokenizer, slices: Sequence[TextSlice], how: Reading) -> float:
    """Returns UTF-8 bytes a token over slices taken at equal distances."""
    step = max(1, sum(part.size for part in slices) // _MEASURED_BYTES)
    text_bytes = tokens = 0
    for part in expand(slices[::step], how):
        for document in read_documents(part, how):
            text_bytes += len(document.encode())
            tokens += len(tokenizer.encode(document)) + 1
        if text_bytes > 2 * _MEASURED_BYTES:  # a compressed file is one slice, however long
            break
    return text_bytes / max(1, tokens)
