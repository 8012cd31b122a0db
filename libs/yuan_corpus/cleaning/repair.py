"""Unicode and whitespace repair."""

import re
import unicodedata
from typing import Literal, cast

import ftfy

from yuan_corpus.cleaning.stage import Dropped

# What ftfy would leave as it is: ASCII without control characters and entities, Han, kana, and their punctuation.
_SOUND = re.compile(r"[\t\n\x20-\x7e\u2014\u2018-\u201d\u2026\u3000-\u30ff\u4e00-\u9fff\uff01-\uff5e]*")
_ENTITY = re.compile(r"&#?\w{2,24};")
_SPACES = (" ", "\t", "\u00a0", "\u3000")
_LINE_END = re.compile(r"[ \t\u00a0\u3000]+$", re.MULTILINE)
_ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff\u00ad]")


class UnicodeRepair:
    """Mends mojibake and control characters with ftfy, composes characters, trims lines and runs of empty ones.

    Full-width punctuation and curly quotes stay: in Chinese they are the right ones.
    """

    def __init__(self, normalization: str = "NFC", most_empty_lines: int = 2) -> None:
        self._form = normalization
        self._empty = re.compile(rf"\n{{{most_empty_lines + 2},}}")
        self._few = "\n" * (most_empty_lines + 1)
        self._settings = ftfy.TextFixerConfig(
            unescape_html="auto",
            fix_character_width=False,
            uncurl_quotes=False,
            normalization=None,
        )

    def clean(self, text: str) -> str | Dropped:
        """Returns the repaired text."""
        if _ENTITY.search(text) or not _SOUND.fullmatch(text):
            text = ftfy.fix_text(text, self._settings)
            text = _ZERO_WIDTH.sub("", text)
            if self._form != "none":
                text = unicodedata.normalize(cast("Literal['NFC', 'NFKC']", self._form), text)
        # To look for what is seldom there is several times as fast as to replace it.
        if text.endswith(_SPACES) or any(space + "\n" in text for space in _SPACES):
            text = _LINE_END.sub("", text)
        if self._few + "\n" in text:
            text = self._empty.sub(self._few, text)
        return text if text.strip() else Dropped("nothing is left")
