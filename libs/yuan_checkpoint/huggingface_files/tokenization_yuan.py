"""Yuan 2.0's tokenizer for `transformers` (4.56 or newer, 5): SentencePiece, and strings that stand for one id each.

The text is split at these strings, and every part between them is encoded on its own, with its own leading space. The
published vocabulary has 20,000 pieces of one score, whose merges only the sentencepiece library makes in the right
order: there is no `tokenizer.json`.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import sentencepiece
from transformers import AddedToken, PreTrainedTokenizer

_SPACE = "\u2581"
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_UNKNOWN_TEXT = " \u2047 "


class YuanTokenizer(PreTrainedTokenizer):
    """Text to ids and back.

    Args:
        vocab_file: the SentencePiece model.
        special_ids: id of every string that the text is split at; ids from the model's size on are appended to it.
        decoding: `exact` undoes encoding to the letter; `hugging_face` is what the published tokenizer does, with its
            stray spaces around special tokens.
        **kwargs: what every tokenizer has.
    """

    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "tokenizer.model"}
    model_input_names: ClassVar[list[str]] = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(self, vocab_file: str, special_ids: Mapping[str, int], decoding: str = "exact", **kwargs: Any) -> None:
        if decoding not in ("exact", "hugging_face"):
            raise ValueError(f"decoding: {decoding!r} is neither exact nor hugging_face")
        self.vocab_file = vocab_file
        self.decoding = decoding
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocab_file))
        self._splitting = {token: string for string, token in special_ids.items()}
        named = {str(value) for key, value in kwargs.items() if key.endswith("_token") and value is not None}
        self._added_tokens_decoder = {
            token: AddedToken(string, normalized=False, special=string in named or token < 3)
            for token, string in sorted(self._splitting.items())
        }
        super().__init__(special_ids=dict(special_ids), decoding=decoding, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Is pickled as its model's bytes, for processes that encode."""
        return {**self.__dict__, "_pieces": self._pieces.serialized_model_proto()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Comes back from `__getstate__`."""
        self.__dict__ = {**state, "_pieces": sentencepiece.SentencePieceProcessor(model_proto=state["_pieces"])}

    @property
    def vocab_size(self) -> int:
        """Pieces of the model, without what is appended to them; `len(tokenizer)` has both."""
        return self._pieces.get_piece_size()

    def get_vocab(self) -> dict[str, int]:
        """Returns the id of every piece and added string."""
        pieces = {self._pieces.id_to_piece(token): token for token in range(self.vocab_size)}
        return {**pieces, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        del kwargs
        return [self._pieces.id_to_piece(token) for token in self._encode_part(text)]

    def _encode_part(self, text: str) -> list[int]:
        """Returns the ids of text without special strings."""
        if _SPACE not in text or self.decoding == "hugging_face":
            return self._pieces.encode(text)
        # The character that stands for spaces in pieces would come back as one. Another that has no piece is encoded in
        # its place, whose three byte pieces are then exchanged for its own.
        stand_in = next((character for character in _NONCHARACTERS if character not in text), None)
        own, others = self._bytes_of(_SPACE), [] if stand_in is None else self._bytes_of(stand_in)
        if stand_in is None or not all(map(self._pieces.is_byte, own)):
            return self._pieces.encode(text)
        ids = self._pieces.encode(text.replace(_SPACE, stand_in))
        for place in range(len(ids) - 2):
            if ids[place : place + 3] == others:
                ids[place : place + 3] = own
        return ids

    def _bytes_of(self, character: str) -> list[int]:
        return [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in character.encode()]

    def _convert_token_to_id(self, token: str) -> int:
        return self._pieces.piece_to_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        # A model may have more rows than there are ids, and a user may make a text of any number.
        return self._pieces.id_to_piece(index if index < self.vocab_size else self._pieces.unk_id())

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Returns the ids as they are: neither a first nor a last token is added."""
        return token_ids_0 if token_ids_1 is None else token_ids_0 + token_ids_1

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Returns the text of tokens."""
        return self._text([self._convert_token_to_id_with_added_voc(token) for token in tokens])

    def _decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        del clean_up_tokenization_spaces, kwargs  # cleaning up would change code and Chinese text
        ids = [token_ids] if isinstance(token_ids, int) else [int(token) for token in token_ids]
        return self._text(ids, frozenset(self.all_special_ids) if skip_special_tokens else frozenset())

    def _text(self, ids: Sequence[int], skipped: frozenset[int] = frozenset()) -> str:
        if self.decoding == "hugging_face":
            return self._text_as_published([token for token in ids if token not in skipped])
        text = bytearray()
        begins = True
        for token in ids:
            if token in self._added_tokens_decoder:
                text += b"" if token in skipped else self._added_tokens_decoder[token].content.encode()
                begins = True
                continue
            if token >= self.vocab_size:
                text += _UNKNOWN_TEXT.encode()
            elif self._pieces.is_byte(token):
                text.append(int(self._pieces.id_to_piece(token)[1:-1], 16))
            elif self._pieces.is_unknown(token):
                text += _UNKNOWN_TEXT.encode()
            elif not self._pieces.is_control(token):
                piece = self._pieces.id_to_piece(token).replace(_SPACE, " ")
                text += (piece.removeprefix(" ") if begins else piece).encode()
            begins = False
        return text.decode(errors="replace")

    def _text_as_published(self, ids: Sequence[int]) -> str:
        """Decodes as version 4.44's slow LlamaTokenizer did: strings appended to the model get spaces around them."""
        texts: list[str] = []
        pieces: list[int] = []
        for token in ids:
            if token < self.vocab_size:
                pieces.append(token)
                continue
            if pieces and (text := self._joined_as_published(pieces)):
                texts.append(text)
            pieces = []
            texts.append(self._added_tokens_decoder[token].content if token in self._added_tokens_decoder else "\u2047")
        if pieces:
            texts.append(self._joined_as_published(pieces))
        return " ".join(texts)

    def _joined_as_published(self, ids: Sequence[int]) -> str:
        text, plain, after_special = "", [], False
        for place, token in enumerate(ids):
            piece = self._pieces.id_to_piece(token)
            if not place:
                piece = piece.removeprefix(_SPACE)
            if token in self._added_tokens_decoder:
                if place and not after_special:
                    text += " "
                text += self._pieces.decode_pieces(plain) + piece
                plain, after_special = [], True
                continue
            if after_special and place == 1 and not piece.startswith(_SPACE):
                text += " "
            plain.append(piece)
            after_special = False
        return text + self._pieces.decode_pieces(plain)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Copies the SentencePiece model; the special strings stand in tokenizer_config.json."""
        name = self.vocab_files_names["vocab_file"]
        target = Path(save_directory) / (name if filename_prefix is None else f"{filename_prefix}-{name}")
        if target.resolve() != Path(self.vocab_file).resolve():
            shutil.copyfile(self.vocab_file, target)
        return (str(target),)
