"""Log-probabilities in OpenAI's two forms: of completions, and of chats."""

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from yuan_rpc.inference.v1 import inference_pb2


def name_of(token: bytes) -> str:
    """Returns a token as OpenAI names it: its text, or its bytes where they are no whole characters."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


@dataclass
class CompletionLogprobs:
    """The form of completions: lists side by side, which grow with the text.

    Attributes:
        text: that the tokens belong to, prompt included where it is echoed.
        position: characters of it so far.
    """

    position: int = 0
    _characters: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")(errors="replace")
    )
    tokens: list[str] = field(default_factory=list[str])
    token_logprobs: list[float | None] = field(default_factory=list[float | None])
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list[dict[str, float] | None])
    text_offset: list[int] = field(default_factory=list[int])

    def add(self, found: Iterable[inference_pb2.TokenLogprob], *, first_of: str | None = None) -> None:
        """Adds tokens.

        Args:
            found: in order.
            first_of: the text that they begin; a space that SentencePiece puts before it is not its own.
        """
        for one in found:
            token = one.token
            if first_of is not None and token.startswith(b" ") and not first_of.startswith(" "):
                token = token[1:]
            first_of = None
            self.tokens.append(name_of(token))
            self.text_offset.append(self.position)
            self.position += len(self._characters.decode(token))  # as the text itself is put together
            self.token_logprobs.append(one.logprob if one.HasField("logprob") else None)
            self.top_logprobs.append(_top(one) if one.HasField("logprob") else None)

    def take(self) -> dict[str, Any]:
        """Returns what was added since the last time."""
        taken = {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }
        self.tokens, self.token_logprobs, self.top_logprobs, self.text_offset = [], [], [], []
        return taken


def _top(one: inference_pb2.TokenLogprob) -> dict[str, float]:
    """Returns the likeliest by name, the token itself among them; of two with one name the likelier."""
    found: dict[str, float] = {}
    for other in one.top_logprobs:
        found.setdefault(name_of(other.token), other.logprob)
    found.setdefault(name_of(one.token), one.logprob)
    return found


def chat_logprobs(found: Sequence[inference_pb2.TokenLogprob]) -> dict[str, Any]:
    """Returns the form of chats."""

    def entry(one: inference_pb2.TokenLogprob | inference_pb2.TopLogprob) -> dict[str, Any]:
        return {"token": name_of(one.token), "logprob": one.logprob, "bytes": list(one.token)}

    return {
        "content": [{**entry(one), "top_logprobs": [entry(top) for top in one.top_logprobs]} for one in found],
        "refusal": None,
    }
