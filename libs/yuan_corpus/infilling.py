"""Fill in the middle: document pieces rearranged so that a model learns to write what stands between two texts.

As the original does it (YUAN_FACTS B4), but for where its randomness comes from: there from one generator that goes on
from sample to sample, in each loader worker its own; here from the sample's key alone, so that neither workers nor a
resume change a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yuan_corpus.packing import SampleKey, TokenArray
from yuan_corpus.special_tokens import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
from yuan_corpus.tokenizer import Tokenizer


@dataclass(frozen=True)
class InfillingTokens:
    """Ids of the tokens that mark the parts of a rearranged piece."""

    prefix: int
    middle: int
    suffix: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "InfillingTokens":
        """Looks them up.

        Raises:
            TokenizerError: if the tokenizer lacks one.
        """
        return cls(*(tokenizer.special_id(string) for string in (FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)))


class Infilling:
    """Rearranges the document pieces of samples; a `SampleTransform`.

    A piece is what stands in a sample between two `<eod>`, or between one and the sample's begin or end. With
    probability `rate` its text is cut at two characters drawn evenly, into prefix, middle and suffix, and written

        <FIM_PREFIX> prefix <FIM_SUFFIX> suffix <FIM_MIDDLE> middle          or, of those at `spm_rate`,
        <FIM_PREFIX> <FIM_SUFFIX> suffix <FIM_MIDDLE> prefix middle

    each part tokenized anew. Empty pieces vanish, with their `<eod>`; not so the last one, which follows the last
    `<eod>` and may be empty. The sample is then longer or shorter, and is cut or filled up with `<pad>` at its end.
    """

    def __init__(self, tokenizer: Tokenizer, rate: float, spm_rate: float) -> None:
        """Makes a transform.

        Args:
            tokenizer: that cut the dataset.
            rate: share of pieces that are rearranged.
            spm_rate: share of those that are written suffix first.

        Raises:
            TokenizerError: if the tokenizer lacks one of the tokens that are needed.
        """
        self._tokenizer = tokenizer
        self._tokens = InfillingTokens.of(tokenizer)
        self._eod, self._pad = tokenizer.eod_id, tokenizer.pad_id
        self._rate, self._spm_rate = rate, spm_rate

    def __call__(self, tokens: TokenArray, key: SampleKey) -> TokenArray:
        """Returns the sample's S+1 tokens after rearranging, from them and the key alone."""
        return self.rearranged(tokens, random_of(key))

    def rearranged(self, tokens: npt.NDArray[np.integer], random: np.random.RandomState) -> TokenArray:
        """Returns as many tokens, rearranged.

        Args:
            tokens: integers [n].
            random: draws, per piece, whether; then the two cuts; then the order.
        """
        length = len(tokens)
        ends = np.flatnonzero(tokens == self._eod).tolist()
        parts: list[int] = []
        start = 0
        for end in ends:
            if end > start:
                parts += self._permuted(tokens[start:end].tolist(), random)
                parts.append(self._eod)
            start = end + 1
        parts += self._permuted(tokens[start:].tolist(), random)
        result = np.full(length, self._pad, np.int64)
        kept = parts[:length]
        result[: len(kept)] = kept
        return result

    def _permuted(self, piece: list[int], random: np.random.RandomState) -> list[int]:
        if not random.binomial(1, self._rate):
            return piece
        text = self._tokenizer.decode(piece)
        first, second = sorted(random.randint(0, len(text) + 1, size=2).tolist())
        prefix, middle, suffix = (self._encode(part) for part in (text[:first], text[first:second], text[second:]))
        marks = self._tokens
        if random.binomial(1, self._spm_rate):
            return [marks.prefix, marks.suffix, *suffix, marks.middle, *prefix, *middle]
        return [marks.prefix, *prefix, marks.suffix, *suffix, marks.middle, *middle]

    def _encode(self, text: str) -> Sequence[int]:
        return self._tokenizer.encode(text) if text else ()


def random_of(key: SampleKey) -> np.random.RandomState:
    """Returns the generator of a sample: a counter-based one, whose key is the sample's.

    `RandomState` over it, since its methods draw the same in every release of numpy.
    """
    return np.random.RandomState(np.random.Philox(key=[key.epoch << 32 | key.seed, key.index]))
