"""Text to token ids and back: SentencePiece pieces, and special strings that stand for one id each.

Special strings split the text and every piece of text between them is encoded on its own, with its own dummy prefix
(YUAN_FACTS B6). Two kinds of folder are understood: one of ours, `tokenizer.model` with `special_tokens.json`, and
the original's `tokenizer.model`, whose special tokens are known by its pieces. Training is in
`tokenizer_training.py`, decoding in `decoding.py`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece

from yuan_corpus import special_tokens
from yuan_corpus.decoding import SPACE, Decoding, PieceTable, StreamDecoder, decode_as_hugging_face
from yuan_corpus.errors import TokenizerError
from yuan_corpus.segment_encoder import MOST_MARKERS, SegmentEncoder, marker, segment_encoder

MODEL_FILE_NAME = "tokenizer.model"
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


@dataclass(frozen=True)
class EncodedDocuments:
    """The ids of some documents.

    Attributes:
        ids: int32, all documents' back to back, each ending with `<eod>`.
        lengths: int32, tokens of each document.
        sizes: int64, UTF-8 bytes of each document.
    """

    ids: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]


class Tokenizer:
    """A loaded tokenizer.

    Attributes:
        special_ids: id of every string that the text is split at.
        piece_count: pieces of the SentencePiece model.
        decoding: how `decode` works unless told otherwise.
        digest: sha256 hex of `tokenizer.model` and `special_tokens.json`, one after the other: datasets name it.
    """

    def __init__(self, model: bytes, special_ids: Mapping[str, int], decoding: Decoding = Decoding.EXACT) -> None:
        """Makes a tokenizer from a SentencePiece model.

        Args:
            model: content of a `tokenizer.model`.
            special_ids: string -> id; ids at or above the model's piece count are appended to it.
            decoding: default of `decode`.

        Raises:
            TokenizerError: if the model is not one, or the ids do not fit it.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(model)
        except (RuntimeError, ValueError, TypeError):
            raise TokenizerError("not a SentencePiece model") from None
        self.piece_count = self._processor.vocab_size()
        self.special_ids = dict(special_ids)
        self.decoding = decoding
        appended = {token for token in self.special_ids.values() if token >= self.piece_count}
        if appended != set(range(self.piece_count, self.piece_count + len(appended))):
            raise TokenizerError(
                f"special tokens have ids {sorted(appended)}, which leave gaps behind the model's {self.piece_count} "
                "pieces; the two do not belong together"
            )
        self._special_strings = {token: string for string, token in self.special_ids.items()}
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(self.special_ids, key=len, reverse=True))) + ")")
        self._markers = {string: marker(number) for number, string in enumerate(self.special_ids, start=1)}
        self._model = model
        self.digest = hashlib.sha256(model + special_tokens.to_json(self.special_ids).encode()).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        """Is pickled as its model and what was read from its vocabulary, for the processes that encode."""
        arguments = (self._model, self.special_ids, self.decoding)
        return Tokenizer, arguments, {Tokenizer._segments.attrname: self._segments}

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Loads a tokenizer folder, or a model file with its folder's special tokens beside it.

        Raises:
            TokenizerError: if it is not one.
        """
        path = Path(path)
        model_file = path / MODEL_FILE_NAME if path.is_dir() else path
        try:
            model = model_file.read_bytes()
        except OSError as error:
            raise TokenizerError(
                f"{model_file}: cannot be read ({error.strerror}); a tokenizer folder has a {MODEL_FILE_NAME}"
            ) from None
        table = model_file.parent / special_tokens.FILE_NAME
        try:
            if table.exists():
                return cls(model, special_tokens.read_special_tokens(table))
            return cls(model, _special_ids_of_pieces(model), Decoding.HUGGING_FACE)
        except TokenizerError as error:
            text = str(error)
            raise TokenizerError(text if text.startswith(str(table)) else f"{model_file}: {text}") from None

    @property
    def vocab_size(self) -> int:
        """Ids in all: pieces and special tokens appended to them."""
        return max(self.piece_count, max(self.special_ids.values(), default=-1) + 1)

    @property
    def eod_id(self) -> int:
        """Id of `<eod>`, which ends every document."""
        return self.special_id(special_tokens.EOD)

    @property
    def sep_id(self) -> int:
        """Id of `<sep>`, which stands between question and answer."""
        return self.special_id(special_tokens.SEP)

    @property
    def pad_id(self) -> int:
        """Id of `<pad>`."""
        return self.special_id(special_tokens.PAD)

    def special_id(self, string: str) -> int:
        """Returns the id of a special token.

        Raises:
            TokenizerError: if this tokenizer has none of that name.
        """
        if string not in self.special_ids:
            raise TokenizerError(f"this tokenizer has no {string}; train one that reserves it")
        return self.special_ids[string]

    def is_byte(self, token: int) -> bool:
        """Says whether a token is one of the 256 byte pieces."""
        return token < self.piece_count and self._processor.is_byte(token)

    def piece(self, token: int) -> str:
        """Returns a token as SentencePiece writes it (`▁the`, `<0x0A>`), or a special token's string.

        Raises:
            TokenizerError: if there is no such id.
        """
        self._table.check([token])
        if token in self._special_strings:
            return self._special_strings[token]
        return self._processor.id_to_piece(token)

    def piece_bytes(self) -> list[bytes]:
        """Returns what each id adds to a text, in UTF-8: of byte pieces one byte, of control pieces nothing."""
        return list(self._table.texts)

    @cached_property
    def _table(self) -> PieceTable:
        return PieceTable.of(self._processor, self._special_strings, self.vocab_size)

    @cached_property
    def _segments(self) -> SegmentEncoder | None:
        """What encodes many documents; None where SentencePiece itself must."""
        return segment_encoder(self._model) if len(self.special_ids) < MOST_MARKERS else None

    def encode_documents(self, texts: Sequence[str], split_at_special_strings: bool = True) -> EncodedDocuments:
        """Returns the ids that `encode` gives to each of many documents, and `<eod>` behind each; several times faster.

        Raises:
            TokenizerError: as `encode`, and for a stretch that cannot be cut of more than four million characters.
        """
        sizes = [len(text) if text.isascii() else _utf8_size(text) for text in texts]
        encoder = self._segments
        if encoder is None:
            documents = [[*self.encode(text, split_at_special_strings), self.eod_id] for text in texts]
            lengths = np.array([len(ids) for ids in documents], np.int32)
            ids = np.fromiter((token for ids in documents for token in ids), np.int32, int(lengths.sum()))
            return EncodedDocuments(ids, lengths, np.array(sizes, np.int64))
        end = marker(0)
        marked = " " + f"{end} ".join(texts) + end
        if not texts or not all(texts) or (split_at_special_strings and self._split.search(marked) is not None):
            marked = "".join([self._marked(text, split_at_special_strings) + end if text else end for text in texts])
        tokens = [self.eod_id, *self.special_ids.values()]
        ids = encoder.encode(marked, tokens, None if self.decoding is Decoding.HUGGING_FACE else self._byte_ids(SPACE))
        ends = np.flatnonzero(ids == self.eod_id)
        if len(ends) != len(texts):  # `<eod>` stands within documents, too
            ends = _ends_of(marked, ends, self._markers.get(special_tokens.EOD, ""), end)
        return EncodedDocuments(ids, np.diff(ends, prepend=-1).astype(np.int32), np.array(sizes, np.int64))

    def _marked(self, text: str, split_at_special_strings: bool) -> str:
        """Returns a text with markers in the places of special strings, and spaces for dummy prefixes."""
        if not split_at_special_strings or self._split.search(text) is None:
            return " " + text
        parts = self._split.split(text)
        return "".join(
            [self._markers[part] if number % 2 else part and " " + part for number, part in enumerate(parts)]
        )

    def encode(self, text: str, split_at_special_strings: bool = True) -> list[int]:
        """Returns the ids of a text; neither a first nor a last token is added.

        Args:
            text: any text; what no piece covers becomes byte pieces.
            split_at_special_strings: give special strings their ids; otherwise they are text like any other.

        Raises:
            TokenizerError: if the text holds half of a surrogate pair, which no UTF-8 can say.
        """
        try:
            if not split_at_special_strings:
                return self._encode_plain(text)
            parts = self._split.split(text)
            if len(parts) == 1:
                return self._encode_plain(text)
            ids: list[int] = []
            for number, part in enumerate(parts):
                if number % 2:
                    ids.append(self.special_ids[part])
                elif part:
                    ids.extend(self._encode_plain(part))
        except (UnicodeEncodeError, RuntimeError):
            _refuse_surrogates(text)
            raise
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        if SPACE not in text or self.decoding is Decoding.HUGGING_FACE:
            return self._processor.encode(text)
        # U+2581 itself would come back as a space. A character that has no piece and is not in the text takes its
        # place, and the three byte pieces that stand for that one are replaced by U+2581's.
        stand_in = next((character for character in _NONCHARACTERS if character not in text), None)
        if stand_in is None:
            return self._processor.encode(text)
        first, second, third = self._byte_ids(stand_in)
        replacement = self._byte_ids(SPACE)
        if not all(map(self.is_byte, replacement)):
            return self._processor.encode(text)
        ids = self._processor.encode(text.replace(SPACE, stand_in))
        for position in range(len(ids) - 2):
            if ids[position] == first and ids[position + 1] == second and ids[position + 2] == third:
                ids[position : position + 3] = replacement
        return ids

    def _byte_ids(self, character: str) -> list[int]:
        return [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in character.encode()]

    def decode(self, ids: Iterable[int], decoding: Decoding | None = None) -> str:
        """Returns the text of ids.

        Args:
            ids: from 0 to vocab_size - 1; bytes that make no character become U+FFFD.
            decoding: None: the tokenizer's own.

        Raises:
            TokenizerError: if an id is out of range.
        """
        tokens = [int(token) for token in ids]
        if (decoding or self.decoding) is Decoding.HUGGING_FACE:
            self._table.check(tokens)
            return decode_as_hugging_face(tokens, self._processor, self._special_strings)
        decoder = self.stream_decoder()
        return decoder.push_all(tokens) + decoder.finish()

    def stream_decoder(self, after: Sequence[int] = ()) -> StreamDecoder:
        """Returns a decoder that takes ids one by one and gives text as soon as its characters are whole.

        Args:
            after: ids whose text is already known, such as a prompt's: what follows them keeps its leading space,
                as `hello` + `▁world` must. Without any, the first piece loses its dummy prefix.
        """
        return StreamDecoder(self._table, after)


def _refuse_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"character {error.start} of the text is half of a surrogate pair (U+{ord(text[error.start]):04X}); "
            "remove it or read the text as UTF-8"
        ) from None


def _utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        _refuse_surrogates(text)
        raise


def _ends_of(marked: str, ends: npt.NDArray[np.int64], special: str, end: str) -> npt.NDArray[np.int64]:
    """Returns, of the places of `<eod>`, those that end a document."""
    kinds = [character == end for character in marked if character in (special, end)]
    return ends[np.array(kinds, bool)]


def _special_ids_of_pieces(model: bytes) -> dict[str, int]:
    """Returns the special ids of a model that carries the original's special tokens as ordinary pieces.

    Of the added tokens those that are pieces keep their ids and the others are appended in order, which for the
    published model gives `<mask>` 134953 to `<FIM_MIDDLE>` 134957. `<s>` and `<unk>` split text too, `</s>` does
    not: the original replaces it by `<eod>`.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except (RuntimeError, ValueError, TypeError):
        raise TokenizerError("not a SentencePiece model") from None
    known = {processor.id_to_piece(token): token for token in range(processor.vocab_size())}
    if special_tokens.EOD not in known:
        raise TokenizerError(
            f"neither {special_tokens.FILE_NAME} beside it nor a piece {special_tokens.EOD} in it; "
            "it is not a tokenizer of the Yuan family"
        )
    ids = {string: known[string] for string in ("<unk>", "<s>", special_tokens.EOD) if string in known}
    following = processor.vocab_size()
    for string in special_tokens.ADDED_TOKENS:
        if string in known:
            ids[string] = known[string]
        else:
            ids[string] = following
            following += 1
    return ids
