"""The text that a job names in `inputs`: its files, how they are read, and its digest."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from yuan_corpus import DocumentMode, Reading, RemoteFile, Source, TextError, TokenizerError, find_text_files
from yuan_corpus.cleaning import StageSpec, module_file
from yuan_corpus.documents import SkipLog
from yuan_corpus.sources import open_source
from yuan_corpus.special_tokens import FILE_NAME as SPECIAL_TOKENS
from yuan_corpus.tokenizer import MODEL_FILE_NAME
from yuan_jobs import digest_of_files
from yuan_jobs.wiring import tokenizer_paths
from yuan_manifest.cleaning import files_of_stage
from yuan_manifest.schema import OnError, TextInputs, TokenizeJob, TokenizerJob

_MEND = re.compile(r"; [^;]*(?:inputs\.exclude|mend)[^;]*$")
"""What an error says is to be done, which is done where its record is left out."""

TextJob = TokenizerJob | TokenizeJob


def text_files(inputs: TextInputs) -> list[Source]:
    """Returns the files of a job's text, in order.

    Raises:
        TextError: if there are none.
    """
    return find_text_files(inputs.text, inputs.exclude)


def reading(inputs: TextInputs) -> Reading:
    """Returns how the manifest says that text is read."""
    return Reading(
        DocumentMode(inputs.documents.value),
        inputs.text_field,
        inputs.encoding,
        skip_broken=inputs.on_error is OnError.skip,
    )


def tokenizer_file(path: str) -> Path:
    """Returns the SentencePiece model that a path names: the file, or that of a tokenizer's folder."""
    named = Path(path).expanduser()
    return named / MODEL_FILE_NAME if named.is_dir() else named


def stages(job: TokenizeJob) -> list[StageSpec]:
    """Returns the job's stages of cleaning."""
    return [
        StageSpec(item["stage"], {key: value for key, value in item.items() if key != "stage"}) for item in job.cleaning
    ]


def files_of_stages(job: TokenizeJob) -> list[Source]:
    """Returns the files that decide what stages of cleaning do: those that they read, and a user's own code.

    Of code that is the stage's module alone, not what it imports.

    Raises:
        TextError: if one is not there.
    """
    read: list[Source] = []
    for number, item in enumerate(job.cleaning):
        if patterns := files_of_stage(item):
            read += _files_named(f"cleaning[{number}].files", patterns)
    own = (item["stage"].partition(":")[0] for item in job.cleaning if ":" in item["stage"])
    return [*read, *(file for module in own if (file := module_file(module)) is not None)]


def fingerprint_of_text(job: TextJob) -> Mapping[str, str]:
    """Returns a digest of the text's names and content, so that changed text is a new job.

    With `on_error: skip` a file that cannot be read, which the job leaves out and counts, has no content in it.

    Raises:
        TextError: if there is no text, or it cannot be read.
    """
    files = text_files(job.inputs) if job.inputs.text else []
    skipped = files[:] if reading(job.inputs).skip_broken else []
    may_fail = [path for path in skipped if isinstance(path, Path)]
    if isinstance(job, TokenizeJob):  # what cleaning reads (word lists, benchmarks) decides on the output too
        files += files_of_stages(job)
    else:  # and words and tokenizers that are no artifacts
        words = job.tokenizer.added_words
        files += _files_named("tokenizer.added_words", words) if words else []
        files += _files_of_tokenizers(job)
    local = [path for path in files if isinstance(path, Path)]
    remote = [file for file in files if isinstance(file, RemoteFile)]
    try:
        digests = {"text": digest_of_files(local, may_fail)} if local else {}
        if remote:
            digests["remote_text"] = _digest_of_remote(remote, skipped)
    except OSError as error:
        where = error.filename or "text"
        raise TextError(f"{where}: cannot be read ({error.strerror or error}); mend that or exclude it") from None
    return digests


def _files_named(key: str, patterns: Sequence[str]) -> list[Source]:
    """Returns the files that another key than `inputs.text` names.

    Raises:
        TextError: if there are none.
    """
    try:
        return find_text_files(patterns)
    except TextError as error:
        raise TextError(f"{key}: {str(error).removeprefix('text ')}") from None


def _files_of_tokenizers(job: TokenizerJob) -> list[Source]:
    """Returns the files of the tokenizers that a job names by their paths.

    Raises:
        TokenizerError: if one is not there.
    """
    files: list[Source] = []
    for key, name in tokenizer_paths(job.inputs).items():
        file = tokenizer_file(name)
        if not file.is_file():
            problem = f"no such file; expected a SentencePiece model, or a folder with {MODEL_FILE_NAME}"
            raise TokenizerError(f"inputs.{key}: {file}: {problem}")
        files.append(file)
        if (table := file.with_name(SPECIAL_TOKENS)).is_file():
            files.append(table)
    return files


def _digest_of_remote(files: Sequence[RemoteFile], unreadable: Collection[Source]) -> str:
    """Returns one digest of names and contents; the files are read once for it, for no store's checksums are alike."""
    whole = hashlib.sha256()
    for remote in files:
        content = ""
        try:
            with open_source(remote) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]
        except OSError:
            if remote not in unreadable:
                raise
        whole.update(f"{len(remote.name)}:{remote.name}:{content};".encode())
    return whole.hexdigest()


def skipped_lines(skipped: SkipLog) -> list[str]:
    """Returns what a user is told of broken records that were left out: how many, and where the first of them are."""
    if not skipped.count:
        return []
    records = "1 broken record or file" if skipped.count == 1 else f"{skipped.count:,} broken records or files"
    first = "" if skipped.count == len(skipped.first) else "; some of them"
    places = [_MEND.sub("", place) for place in skipped.first]
    return [f"{records} left out (inputs.on_error: skip){first}:", *(f"  {place}" for place in places)]
