"""What single tokens spell, and which of them stand for a colon or a new line."""

from weakref import WeakKeyDictionary

from yuan_corpus import Tokenizer

_SPACE = "▁"
_NEW_LINE = "<n>"

_pairs: "WeakKeyDictionary[Tokenizer, tuple[tuple[int, int], ...]]" = WeakKeyDictionary()


def spelled(tokenizer: Tokenizer, token: int) -> bytes:
    """Returns the UTF-8 of a token, a part of a character where it is one byte of it."""
    if tokenizer.is_byte(token):
        return bytes([int(tokenizer.piece(token)[3:5], 16)])
    return tokenizer.piece(token).replace(_SPACE, " ").encode()


def colon_newline_pairs(tokenizer: Tokenizer) -> tuple[tuple[int, int], ...]:
    """Returns all pairs of a token that ends in a colon and one that begins a new line.

    The original's `prevent_newline_after_colon` knows only the first token of each; with pieces like `):` that is not
    enough. Looks at the whole vocabulary once for each tokenizer.
    """
    found = _pairs.get(tokenizer)
    if found is None:
        texts = [(token, spelled(tokenizer, token)) for token in range(tokenizer.vocab_size)]
        colons = [token for token, text in texts if text.endswith((b":", "：".encode()))]
        lines = [token for token, text in texts if text.lstrip(b" ").startswith((b"\n", _NEW_LINE.encode()))]
        found = _pairs[tokenizer] = tuple((colon, line) for colon in colons for line in lines)
    return found
