"""Guesses the next tokens from the text itself: what came after the same few tokens before (prompt lookup)."""

_LENGTHS = (3, 2)
"""Tokens that must be the same; the longer likeness is tried first."""


class PromptLookup:
    """Where every few tokens of a growing text came last, so that a guess costs no search."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._seen = 0

    def guess(self, tokens: list[int], count: int) -> tuple[int, ...]:
        """Returns up to `count` tokens that may follow a text; the text may only have grown since the last call."""
        # The text's own end is left out: it is like itself.
        for end in range(max(self._seen, 2), len(tokens)):
            for length in _LENGTHS:
                if end >= length:
                    self._after[tuple(tokens[end - length : end])] = end
        self._seen = max(self._seen, len(tokens))
        for length in _LENGTHS:
            place = self._after.get(tuple(tokens[-length:])) if len(tokens) >= length else None
            if place is not None:
                return tuple(tokens[place : place + count])
        return ()
