"""Chinese and spaced text told apart: what a word, a sentence and an n-gram is in each."""

import re
from collections.abc import Sequence

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ebef]")
_UNITS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ebef]|[^\W_\u3400-\u4dbf\u4e00-\u9fff]+")
_SENTENCE_ENDS = {True: re.compile(r"[。！？!?…]+[”’」』）)]*"), False: re.compile(r"[.!?]+[\"'”’)]*(?=\s|$)")}

CHINESE_SHARE = 0.3
"""Of a text's letters that are Han, from which on it is judged as Chinese."""


def is_chinese(text: str) -> bool:
    """Tells whether a text is judged by characters rather than by words."""
    if text.isascii():
        return False
    letters = sum(map(str.isalpha, text))
    return len(HAN.findall(text)) >= max(1, letters * CHINESE_SHARE)


def units(text: str) -> list[str]:
    """Returns a text's Han characters and other words, in small letters, without punctuation."""
    return _UNITS.findall(text.lower())


def words(text: str, chinese: bool) -> list[str]:
    """Returns what counts as a word: what spaces part; in Chinese every character that is not a space."""
    return list("".join(text.split())) if chinese else text.split()


def sentences(text: str, chinese: bool) -> list[str]:
    """Returns a text's sentences without their ends."""
    return [part for line in text.splitlines() for part in _SENTENCE_ENDS[chinese].split(line) if part.strip()]


def ngrams(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Returns all runs of `size` items."""
    return list(zip(*(items[start:] for start in range(size)), strict=False))
