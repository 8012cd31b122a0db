"""Tokens to text as they come, up to the first stop string, wherever token boundaries fall."""

from collections.abc import Sequence

from yuan_corpus import Tokenizer


class OutputText:
    """The text of one continuation.

    What may yet become a stop string is held back; so the text ends where a reader who looks character by character
    would have ended it, whatever the tokens are.
    """

    __slots__ = ("_decoder", "_held", "_keep", "_stop", "_tokenizer", "stopped_by")

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stop: Sequence[str], *, keep: bool) -> None:
        """Begins behind a prompt.

        Args:
            tokenizer: spells.
            prompt_ids: the prompt's tokens.
            stop: none of them empty.
            keep: a stop string that ends the text stays in it.
        """
        self._tokenizer = tokenizer
        self._decoder = tokenizer.stream_decoder(prompt_ids)
        self._stop = tuple(stop)
        self._keep = keep
        self._held = ""
        self.stopped_by = ""

    def again(self, prompt_ids: Sequence[int]) -> "OutputText":
        """Returns another that begins behind the same prompt."""
        return OutputText(self._tokenizer, prompt_ids, self._stop, keep=self._keep)

    def push(self, token: int, *, stops: bool = True) -> str:
        """Takes a token and returns the text that is now certain; `stopped_by` is set if a stop string ended it.

        Args:
            token: the next.
            stops: whether a stop string that is complete now ends the text; otherwise it is text like any other.
        """
        text = self._decoder.push(token)
        if not self._stop:
            return text
        if not stops:
            text, self._held = self._held + text, ""
            return text
        return self._take(text)

    def finish(self) -> str:
        """Returns what is left at the end of a continuation that no stop string ended."""
        if self.stopped_by:
            return ""
        text = self._take(self._decoder.finish())
        rest, self._held = self._held, ""
        return text + rest

    def _take(self, text: str) -> str:
        self._held += text
        found = self._first_stop()
        if found is not None:
            begin, self.stopped_by = found
            text, self._held = self._held[: begin + len(self.stopped_by) * self._keep], ""
            return text
        certain = len(self._held) - max((_overlap(self._held, stop) for stop in self._stop), default=0)
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def _first_stop(self) -> tuple[int, str] | None:
        """Returns where the stop string that is complete first begins; of several the longest."""
        places = [(self._held.find(stop), stop) for stop in self._stop]
        ended = [(begin + len(stop), begin, stop) for begin, stop in places if begin >= 0]
        if not ended:
            return None
        _, begin, stop = min(ended)
        return begin, stop


def _overlap(text: str, stop: str) -> int:
    """Returns how many characters at the end of a text may be the beginning of a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
