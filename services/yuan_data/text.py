"""The text that a job names in `inputs`: its files, what a document is, and its digest."""

from collections.abc import Mapping
from pathlib import Path

from yuan_corpus import DocumentMode, TextError, find_text_files
from yuan_jobs import digest_of_files
from yuan_manifest.schema import TextInputs, TokenizeJob, TokenizerJob

TextJob = TokenizerJob | TokenizeJob


def text_files(inputs: TextInputs) -> list[Path]:
    """Returns the files of a job's text, in order.

    Raises:
        TextError: if there are none.
    """
    return find_text_files(inputs.text, inputs.exclude)


def document_mode(inputs: TextInputs) -> DocumentMode:
    """Returns what the manifest says a document is."""
    return DocumentMode(inputs.documents.value)


def fingerprint_of_text(job: TextJob) -> Mapping[str, str]:
    """Returns a digest of the text's names and content, so that changed text is a new job.

    Raises:
        TextError: if there is no text, or it cannot be read.
    """
    try:
        return {"text": digest_of_files(text_files(job.inputs))}
    except OSError as error:
        raise TextError(f"{error.filename}: cannot be read ({error.strerror}); mend that or exclude it") from None
