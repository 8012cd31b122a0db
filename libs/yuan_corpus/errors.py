"""Errors of this library: each is one line for a user that says what is wrong, where, and the mend."""

from yuan_events import InputError
from yuan_events.printing import escaped


class CorpusError(InputError):
    """Text, a tokenizer or a dataset that the user gave cannot be used.

    Names of files, which its message has in it, may hold line ends, controls of terminals and bytes that are no UTF-8:
    these are shown as escapes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(escaped(message))


class TextError(CorpusError):
    """Source text is missing, empty or not text."""


class TokenizerError(CorpusError):
    """A tokenizer cannot be loaded, trained or used on this text."""


class VocabularyError(TokenizerError):
    """The asked size of a vocabulary does not fit the text; the line begins with `vocab_size:`."""


class IndexedDatasetError(CorpusError):
    """A `.bin`/`.idx` pair is not what it claims to be."""


class SamplingError(CorpusError):
    """Samples cannot be cut from these datasets as asked."""
