"""Documents that were there before: the first in input order stays, within and across files."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
from typing import Any

import numpy as np

from yuan_corpus.cleaning.band_index import BandIndex
from yuan_corpus.cleaning.characters import code_points, kinds_of, run_hashes, unit_words
from yuan_corpus.cleaning.scripts import kinds_are_chinese
from yuan_corpus.cleaning.stage import Dropped
from yuan_corpus.errors import CorpusError

_SCHEME = "affine32"
"""Of datasketch's permutations: values of 32 bits, half the memory of the older ones."""


class ExactDuplicates:
    """Leaves out documents that are equal but for letter case and whitespace (`normalize`), or wholly.

    The collecting process holds 16 bytes of hash a document, about 130 bytes with Python's set around them: 100
    million documents are 13 GB.
    """

    def __init__(self, normalize: bool = True) -> None:
        self._normalize = normalize
        self._seen: set[bytes] = set()

    def sign(self, text: str) -> bytes:
        """Returns a hash of 128 bits: among 10^9 documents two different ones agree with probability 10^-21."""
        if self._normalize:
            text = "".join(text.lower().split())
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    def admit(self, signature: bytes, number: int) -> Dropped | None:
        """Takes the next document, or says that it was there."""
        del number
        if signature in self._seen:
            return Dropped("the same text before")
        self._seen.add(signature)
        return None


class NearDuplicates:
    """Leaves out documents whose n-grams are nearly those of an earlier one (MinHash and LSH of datasketch).

    N-grams are of words, in Chinese of characters. A pair that LSH finds counts if the Jaccard similarity that their
    whole signatures estimate reaches the threshold. The collecting process holds, a document that stays, 2 bytes a
    permutation and about 12 a band: 450 with the defaults, 10 million documents are 4.5 GB.
    """

    def __init__(self, threshold: float = 0.8, permutations: int = 128, ngram: int = 5, seed: int = 1) -> None:
        from datasketch import MinHashLSH  # noqa: PLC0415 - loads SciPy

        self._threshold, self._permutations, self._ngram, self._seed = threshold, permutations, ngram, seed
        # So many bands that nearly no pair at the threshold escapes (of 128 permutations and 0.8 one in 20; with
        # datasketch's own choice three in five do): what they find too much, the whole signatures tell.
        try:
            cut = MinHashLSH(threshold=min(threshold, 0.95), num_perm=permutations, weights=(0.05, 0.95))
        except ValueError:
            few = f"{permutations} are too few for a threshold of {threshold}"
            raise CorpusError(f"permutations: {few}; take 128, or 16 at least") from None
        self._index = BandIndex(cut.b, cut.r, permutations)
        self._drawn: Any = None
        self._drawn = self._sketch().permutations

    def _sketch(self) -> Any:
        """Returns a MinHash of nothing yet."""
        from datasketch import MinHash  # noqa: PLC0415

        # N-grams come hashed: of a million of 32 bits 100 collide, far below what MinHash errs by itself.
        return MinHash(
            num_perm=self._permutations, seed=self._seed, hashfunc=_as_it_is,
            scheme=_SCHEME, permutations=self._drawn,
        )  # fmt: skip

    def sign(self, text: str) -> Any:
        """Returns MinHash values, or None for a document shorter than one n-gram: like no other.

        Of the values' 32 bits the lower 16: of 65,536 pairs of different values one is taken for equal, a thousandth of
        what the estimate errs by itself.
        """
        points = code_points(text.lower())
        kinds = kinds_of(points)
        grams = run_hashes(unit_words(points, kinds).hashes, self._ngram * (2 if kinds_are_chinese(kinds) else 1))
        if not len(grams):
            return None
        sketch = self._sketch()
        sketch.update_batch(np.unique((grams >> np.uint64(32)).astype(np.uint32)).tolist())
        return np.asarray(sketch.hashvalues).astype(np.uint16)

    def admit(self, signature: Any, number: int) -> Dropped | None:
        """Takes the next document, or says that one like it was there."""
        del number
        if signature is None:
            return None
        if self._index.admit(signature, self._threshold):
            return None
        return Dropped("nearly the same text before")


def _as_it_is(value: int) -> int:
    return value
