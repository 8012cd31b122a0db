"""Continuations that must have a structure: a JSON schema, a regular expression or one of some strings; by llguidance.

llguidance (guidance-ai/llguidance) says for every state which tokens may follow; it knows tokens as bytes.
"""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from yuan_corpus import Tokenizer
from yuan_events import YuanError
from yuan_inference.engine.request import Structure, StructureKind

_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As most JSON is written; where any white space may stand, a weak model writes nothing else."""
LONGEST_STRUCTURE = 200_000
"""Characters."""


class StructureError(YuanError):
    """A schema, expression or choice that no text can be made of."""


class Matcher:
    """What a text may still be."""

    def __init__(self, inner: Any, vocabulary: int, end_ids: frozenset[int]) -> None:
        """Args: inner: llguidance's. vocabulary: ids of the tokenizer. end_ids: all that end a text."""
        self._inner = inner
        self._vocabulary = vocabulary
        self._end_ids = [token for token in end_ids if token < vocabulary]
        self._bits = np.zeros((vocabulary + 31) // 32, dtype=np.int32)

    def allowed(self) -> Tensor:
        """Returns which tokens may come next, bool [v].

        Raises:
            StructureError: if none may, or the structure is too complex to go on.
        """
        self._inner.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._inner.is_error():
            raise StructureError(f"the structure cannot be followed: {_reason(self._inner.get_error())}")
        bits = np.unpackbits(self._bits.view(np.uint8), count=self._vocabulary, bitorder="little")
        allowed = torch.from_numpy(bits.astype(bool))
        if self._inner.is_accepting():
            allowed[self._end_ids] = True
        return allowed

    def take(self, token: int, ends: bool) -> bool:
        """Goes on by a token; False if it may not come.

        Raises:
            StructureError: if the structure is too complex to go on.
        """
        if ends:
            return bool(self._inner.is_accepting())
        taken = bool(self._inner.consume_token(token))
        if not taken and self._inner.is_error():
            raise StructureError(f"the structure cannot be followed: {_reason(self._inner.get_error())}")
        return taken

    @property
    def complete(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._inner.is_stopped())

    def copy(self) -> "Matcher":
        """Returns another that goes on from here."""
        return Matcher(self._inner.deep_copy(), self._vocabulary, frozenset(self._end_ids))


class Structures:
    """Makes matchers for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        """Args: tokenizer: of the model. end_ids: ids that end a document."""
        self._tokenizer = tokenizer
        self._end_ids = end_ids

    def matcher(self, structure: Structure) -> Matcher:
        """Returns a matcher at the beginning of a text. May take a second for a large schema.

        Raises:
            StructureError: if the structure is none, or nothing can match it.
        """
        guidance = _library()
        if len(structure.text) > LONGEST_STRUCTURE:
            raise StructureError(f"{structure.kind}: longer than {LONGEST_STRUCTURE} characters")
        grammar = _grammar(guidance, structure)
        inner = guidance.LLMatcher(self._guided, grammar, log_level=0)
        if inner.is_error():
            raise StructureError(f"{structure.kind}: {_first_line(inner.get_error())}")
        matcher = Matcher(inner, self._tokenizer.vocab_size, self._end_ids)
        if not matcher.allowed().any():
            raise StructureError(f"{structure.kind}: no text of this tokenizer matches it")
        return matcher

    @functools.cached_property
    def _guided(self) -> Any:
        guidance = _library()
        return guidance.LLTokenizer(guidance.TokenizerWrapper(_Tokens(self._tokenizer)), slices=[])


class _Tokens:
    """The tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = set(tokenizer.special_ids.values())
        self.special_token_ids = sorted(special)
        self.eos_token_id = tokenizer.eod_id
        self.bos_token_id = None
        texts = tokenizer.piece_bytes()
        # Its way of marking what is no text.
        self.tokens = [
            b"\xff" + text if token in special else text or b"\xff<empty>" for token, text in enumerate(texts)
        ]

        # SentencePiece itself would begin with a space: what is asked for stands behind other text.
        self._ids = {text: token for token, text in reversed(list(enumerate(texts))) if text and token not in special}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """Cuts what must come into tokens, the longest first."""
        left = text.encode() if isinstance(text, str) else text
        ids: list[int] = []
        while left:
            length = next((size for size in range(self._longest, 0, -1) if left[:size] in self._ids), 0)
            if not length:
                break
            ids.append(self._ids[left[:length]])
            left = left[length:]
        return ids


def _grammar(guidance: Any, structure: Structure) -> str:
    try:
        if structure.kind is StructureKind.json_schema:
            schema = json.loads(structure.text)
            if not isinstance(schema, dict | bool):
                raise StructureError("json_schema: expected an object")
            if schema is False:
                raise StructureError("json_schema: false is matched by nothing")
            wanted = cast("dict[str, Any]", schema) or {"type": "object"}
            return guidance.LLMatcher.grammar_from_json_schema(json.dumps(wanted), overrides=_JSON)
        if structure.kind is StructureKind.regex:
            return guidance.LLMatcher.grammar_from_regex(structure.text)
        choices = json.loads(structure.text)
    except (ValueError, RecursionError) as error:
        raise StructureError(f"{structure.kind}: {_first_line(str(error))}") from error
    if not isinstance(choices, list) or not choices:
        raise StructureError("choice: expected an array of strings that is not empty")
    strings = cast("list[object]", choices)
    if not all(isinstance(one, str) and one for one in strings):
        raise StructureError("choice: expected strings that are not empty")
    pattern = "|".join(re.escape(one) for one in cast("Sequence[str]", strings))
    return guidance.LLMatcher.grammar_from_regex(f"({pattern})")


@functools.cache
def _library() -> Any:
    try:
        import llguidance  # noqa: PLC0415 - only who asks for a structure needs it
    except ImportError as error:
        raise StructureError("structured output needs llguidance: pip install llguidance") from error
    return llguidance


def _reason(text: str) -> str:
    """Returns why a matcher has stopped, which stands in a line of its own below its state."""
    if "NoExtensionBias" in text:
        return "no text goes on as it asks"
    lines = (line.strip() for line in text.splitlines())
    return next((line.removeprefix("Error: ")[:300] for line in lines if line.startswith("Error: ")), _first_line(text))


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "not understood"
    # Of a regular expression the reason stands below a picture of it.
    reason = next((line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")), "")
    return f"{lines[0]} {reason}".strip()[:300]
