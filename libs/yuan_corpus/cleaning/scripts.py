"""Chinese and spaced text told apart: what a word and a sentence is in each."""

import re

import numpy as np
import numpy.typing as npt

from yuan_corpus.cleaning.characters import HAN, HAN_RANGES, LETTER, code_points, kinds_of

SENTENCE_ENDS = {True: re.compile(r"[。！？．!?…]+[”’」』）)]*"), False: re.compile(r"[.!?]+[\"'”’)]*(?=\s|$)")}
"""By whether a text is Chinese."""

CHINESE_SHARE = 0.3
"""Of a text's letters that are Han, from which on it is judged as Chinese."""


def is_han(character: str) -> bool:
    """Tells whether a character is a Han character."""
    return any(first <= ord(character) <= last for first, last in HAN_RANGES)


def is_chinese(text: str) -> bool:
    """Tells whether a text is judged by characters rather than by words."""
    return not text.isascii() and kinds_are_chinese(kinds_of(code_points(text)))


def kinds_are_chinese(kinds: npt.NDArray[np.uint8]) -> bool:
    """Tells the same of the kinds of a text's characters."""
    letters = np.count_nonzero(kinds & LETTER)
    return bool(np.count_nonzero(kinds & HAN) >= max(1, letters * CHINESE_SHARE))


def words(text: str, chinese: bool) -> list[str]:
    """Returns what counts as a word: what spaces part; in Chinese every character that is not a space."""
    return list("".join(text.split())) if chinese else text.split()


def sentences(text: str, chinese: bool) -> list[str]:
    """Returns a text's sentences without their ends."""
    return [part for line in text.splitlines() for part in SENTENCE_ENDS[chinese].split(line) if part.strip()]
