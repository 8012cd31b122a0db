"""Ids back to text: exactly, piece by piece as ids come, and as the original's tokenizer does it.

What ids mean comes in as a `PieceTable`; encoding is in `tokenizer.py`.
"""

import codecs
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import sentencepiece

from yuan_corpus.errors import TokenizerError

SPACE = "\u2581"
"""SentencePiece's stand-in for a space inside pieces."""
_UNKNOWN_TEXT = " \u2047 "


class Decoding(Enum):
    """How ids become text.

    EXACT undoes encoding: the text between special tokens loses its dummy prefix, and nothing else is added or lost.
    HUGGING_FACE is what the original's tokenizer (transformers' slow LlamaTokenizer, legacy) does, with its stray
    spaces around special tokens; YUAN_FACTS B6.
    """

    EXACT = "exact"
    HUGGING_FACE = "hugging_face"


@dataclass(frozen=True)
class PieceTable:
    """What every id adds to the text.

    Attributes:
        texts: bytes by id, spaces being spaces; nothing for control pieces.
        prefixed: whether the text begins with the space that a dummy prefix makes; never for byte pieces.
        special: ids of special tokens, after which the text begins anew.
    """

    texts: Sequence[bytes]
    prefixed: Sequence[bool]
    special: Collection[int]

    @classmethod
    def of(
        cls, processor: sentencepiece.SentencePieceProcessor, special_strings: dict[int, str], size: int
    ) -> "PieceTable":
        """Looks up all ids below `size`, of which special ones may lie beyond the model's pieces."""
        texts: list[bytes] = []
        prefixed: list[bool] = []
        for token in range(size):
            text, from_piece = _UNKNOWN_TEXT.encode(), False
            if token in special_strings:
                text = special_strings[token].encode()
            elif processor.is_control(token):
                text = b""
            elif processor.is_byte(token):
                text = bytes([int(processor.id_to_piece(token)[1:-1], 16)])
            elif not processor.is_unknown(token):
                text, from_piece = processor.id_to_piece(token).replace(SPACE, " ").encode(), True
            texts.append(text)
            prefixed.append(from_piece and text.startswith(b" "))
        return cls(texts, prefixed, frozenset(special_strings))

    def check(self, ids: Sequence[int]) -> None:
        """Checks that ids exist.

        Raises:
            TokenizerError: if one does not.
        """
        for token in ids:
            if not 0 <= token < len(self.texts):
                raise TokenizerError(f"token {token} is out of range: ids go from 0 to {len(self.texts) - 1}")


class StreamDecoder:
    """Turns ids into text as they come; the pieces of text joined are the EXACT decoding of all ids."""

    __slots__ = ("_begins", "_characters", "_table")

    def __init__(self, table: PieceTable, after: Sequence[int] = ()) -> None:
        """Begins behind the ids `after`, whose text is already known; see `Tokenizer.stream_decoder`."""
        self._table = table
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begins = not after or int(after[-1]) in table.special

    def push(self, token: int) -> str:
        """Takes one id and returns the text that is now certain, which may be empty.

        Raises:
            TokenizerError: if the id is out of range.
        """
        return self.push_all([token])

    def push_all(self, tokens: Sequence[int]) -> str:
        """Takes several ids; see `push`."""
        table = self._table
        table.check(tokens)
        pieces: list[bytes] = []
        begins = self._begins
        for token in tokens:
            text = table.texts[token]
            pieces.append(text[1:] if begins and table.prefixed[token] else text)
            begins = token in table.special
        self._begins = begins
        return self._characters.decode(b"".join(pieces))

    def finish(self) -> str:
        """Returns what is left: U+FFFD where the ids ended inside a character."""
        return self._characters.decode(b"", final=True)


def decode_as_hugging_face(
    ids: Sequence[int], processor: sentencepiece.SentencePieceProcessor, special_strings: dict[int, str]
) -> str:
    """Decodes as transformers 4.44's slow, legacy LlamaTokenizer, found out by its outputs (golden files)."""
    appended_from = processor.vocab_size()
    texts: list[str] = []
    pieces: list[str] = []
    for token in ids:
        # Tokens appended to the model stand alone with spaces around them; those within it do not.
        if token >= appended_from:
            if pieces and (text := _join_as_hugging_face(pieces, processor, special_strings)):
                texts.append(text)
            pieces = []
            texts.append(special_strings[token])
        else:
            pieces.append(processor.id_to_piece(token))
    if pieces:
        texts.append(_join_as_hugging_face(pieces, processor, special_strings))
    return " ".join(texts)


def _join_as_hugging_face(
    pieces: list[str], processor: sentencepiece.SentencePieceProcessor, special_strings: dict[int, str]
) -> str:
    special = set(special_strings.values())
    text = ""
    plain: list[str] = []
    after_special = False
    for position, piece in enumerate([pieces[0].removeprefix(SPACE), *pieces[1:]]):
        if piece in special:
            if position and not after_special:
                text += " "
            text += processor.decode(plain) + piece
            plain = []
            after_special = True
            continue
        if after_special and position == 1 and not piece.startswith(SPACE):
            text += " "
        plain.append(piece)
        after_special = False
    return text + processor.decode(plain)
