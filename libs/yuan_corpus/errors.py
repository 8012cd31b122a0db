"""Errors of this library: each is one line for a user that says what is wrong, where, and the mend."""

from yuan_events import InputError


class CorpusError(InputError):
    """Text, a tokenizer or a dataset that the user gave cannot be used."""


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
