"""Documents to the lines that SentencePiece is trained on.

A line is what the trained tokenizer's encoder will see of a document: special strings and newlines, which no piece
may hold, end it, and where the encoder will put a dummy prefix it begins with a space. So training itself adds none,
and the indentation of code is counted as it stands after a newline.
"""

import random
import re
from collections.abc import Iterable, Iterator

from yuan_corpus.special_tokens import SPECIAL_TOKENS

LONGEST_LINE = 1000
"""Characters; at most 4,000 bytes of UTF-8, below the 4,192 above which SentencePiece drops a line."""

# U+2581 and U+2585 are SentencePiece's own signs for a space and for the unknown; it would misread or drop them.
_LINE_ENDS = re.compile("[\n\r\u2581\u2585\0]")
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


class LineSampler:
    """Draws lines at random, evenly over a text whose size is known beforehand, never more than a limit in all."""

    def __init__(self, limit_bytes: int | None, total_bytes: int, seed: int) -> None:
        """Begins a drawing.

        Args:
            limit_bytes: drawn at most; None: everything.
            total_bytes: of the text that lines will be offered from, about.
            seed: of the drawing.
        """
        self._limit = limit_bytes
        self._total = total_bytes
        self._random = random.Random(seed)
        self._offered = 0
        self._taken = 0

    def takes(self, size: int) -> bool:
        """Says whether the next line, of `size` bytes, is drawn."""
        if self._limit is None:
            return True
        # Selection sampling: what is still wanted out of what is still to come. The total may be a little wrong.
        wanted = self._limit - self._taken
        left = max(1, self._total - self._offered)
        self._offered += size
        if size > wanted or self._random.random() * left >= wanted:
            return False
        self._taken += size
        return True


def training_lines(documents: Iterable[str], sampler: LineSampler) -> Iterator[str]:
    """Yields the lines of documents that the sampler takes, without line ends, none empty or too long."""
    for document in documents:
        for segment in _SPECIAL.split(document):
            first = True
            for text in _LINE_ENDS.split(segment):
                for line in _cut(" " + text if first and text else text):
                    if line.strip() and sampler.takes(len(line.encode("utf-8", "replace")) + 1):
                        yield line
                first = False


def _cut(text: str) -> Iterator[str]:
    """Cuts a line that is too long, before a space if it has one: no piece reaches across that."""
    start = 0
    while len(text) - start > LONGEST_LINE:
        end = text.rfind(" ", start + 1, start + LONGEST_LINE)
        end = end if end > start else start + LONGEST_LINE
        yield text[start:end]
        start = end
    yield text[start:]
