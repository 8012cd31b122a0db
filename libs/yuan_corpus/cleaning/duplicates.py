"""Documents that were there before: the first in input order stays, within and across files."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import zlib
from typing import Any

import numpy as np

from yuan_corpus.cleaning.scripts import is_chinese, ngrams, units
from yuan_corpus.cleaning.stage import Dropped

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
    whole signatures estimate reaches the threshold. The collecting process holds, a document that stays, 4 bytes a
    permutation and about 120 a band of the index: 4 KB with the defaults, 1 million documents are 4 GB.
    """

    def __init__(self, threshold: float = 0.8, permutations: int = 128, ngram: int = 5, seed: int = 1) -> None:
        from datasketch import MinHashLSH  # noqa: PLC0415 - loads SciPy

        self._threshold, self._permutations, self._ngram, self._seed = threshold, permutations, ngram, seed
        self._index = MinHashLSH(threshold=threshold, num_perm=permutations)
        self._kept: dict[int, Any] = {}
        self._template = self._minhash([])

    def _minhash(self, grams: list[bytes]) -> Any:
        from datasketch import MinHash  # noqa: PLC0415

        # crc32, not the SHA-1 of datasketch: of a million values 100 collide, far below what MinHash errs by itself.
        sketch = MinHash(num_perm=self._permutations, seed=self._seed, hashfunc=zlib.crc32, scheme=_SCHEME)
        if grams:
            sketch.update_batch(grams)
        return sketch

    def sign(self, text: str) -> Any:
        """Returns MinHash values, uint32, or None for a document shorter than one n-gram: like no other."""
        found = units(text)
        size = self._ngram * (2 if is_chinese(text) else 1)
        if len(found) < size:
            return None
        grams = sorted({"\x1f".join(gram).encode() for gram in ngrams(found, size)})
        return np.asarray(self._minhash(grams).hashvalues)

    def admit(self, signature: Any, number: int) -> Dropped | None:
        """Takes the next document, or says that one like it was there."""
        from datasketch import MinHash  # noqa: PLC0415

        if signature is None:
            return None
        sketch = MinHash(
            num_perm=self._permutations, seed=self._seed, hashfunc=zlib.crc32,
            scheme=_SCHEME, hashvalues=signature, permutations=self._template.permutations,
        )  # fmt: skip
        candidates: Any = self._index.query(sketch)
        for candidate in sorted(candidates):
            if float(np.mean(self._kept[candidate] == signature)) >= self._threshold:
                return Dropped("nearly the same text before")
        self._index.insert(number, sketch, check_duplication=False)
        self._kept[number] = signature
        return None
