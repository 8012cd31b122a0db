"""Which of many MinHash signatures are like a new one: locality-sensitive hashing by bands, in little memory.

A signature is cut into bands of the same length; two are compared as wholes if some band of them is the same (Leskovec,
Rajaraman, Ullman: Mining of Massive Datasets, 3.4.1). A band is a table of places by hash, of which each holds the
number of the latest signature that belongs there, and each signature the number of the one before it. Bands are not
kept beside the signatures: whether two that meet in a place have one in common is seen once they are found alike. With
128 values in 16 bands that is about 450 bytes a signature (datasketch's own index, of Python's dictionaries and sets,
takes 6,200).
"""

from array import array

import numpy as np
import numpy.typing as npt

Signature = npt.NDArray[np.uint16]
Places = npt.NDArray[np.int64]

_FIRST = 1 << 10
_GROWTH = 1.25
_AT_ONCE = 1 << 12
"""Signatures that are compared with one: what bounds the memory of arrays."""


class BandIndex:
    """See the module. Signatures are numbered from 1; 0 stands for none."""

    def __init__(self, bands: int, rows: int, permutations: int) -> None:
        """Makes an empty index.

        Args:
            bands: of a signature.
            rows: values of a band; bands times rows may be less than `permutations`.
            permutations: values of a signature.
        """
        self._bands, self._rows = bands, rows
        self._every = np.arange(bands)
        # Odd numbers without a pattern; the same in every run, so that nothing depends on when it is.
        self._factors = np.random.default_rng(rows).integers(1 << 62, 1 << 63, rows, np.uint64) * np.uint64(2) + 1
        self._count = 0
        self._signatures = np.zeros((_FIRST, permutations), np.uint16)
        # A row of one number a band for each signature. Not of numpy, with which a step along a chain takes forty times
        # as long, and texts that begin alike make long ones.
        self._before = array("I", bytes(4 * bands))
        self._latest = np.zeros((bands, _FIRST), np.uint32)

    def __len__(self) -> int:
        """Returns how many signatures it has."""
        return self._count

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self._signatures.nbytes + len(self._before) * self._before.itemsize + self._latest.nbytes

    def admit(self, signature: Signature, threshold: float) -> bool:
        """Takes a signature unless it is like one that is there; returns whether it was taken.

        Args:
            signature: uint16 [permutations].
            threshold: the share of values from which on two are alike, where they have a band in common.
        """
        places = self._places(self._banded(signature))
        latest = self._latest[self._every, places]
        if latest.any() and self._knows(signature, latest, threshold):
            return False
        self._count += 1
        if self._count == len(self._signatures):
            rows = int(self._count * _GROWTH)
            # In its place: the kernel moves pages, nothing is there twice. No view of them outlives a method.
            self._signatures.resize((rows, self._signatures.shape[1]), refcheck=False)
        self._signatures[self._count] = signature
        self._before.frombytes(latest.tobytes())
        self._latest[self._every, places] = self._count
        if self._count > self._latest.shape[1]:
            self._widen()
        return True

    def _banded(self, signatures: Signature) -> Signature:
        """Returns signatures [..., permutations] as [..., bands, rows]."""
        shape = (*signatures.shape[:-1], self._bands, self._rows)
        return signatures[..., : self._bands * self._rows].reshape(shape)

    def _places(self, bands: Signature) -> Places:
        """Returns where bands [n, rows] belong."""
        mixed = bands.astype(np.uint64) @ self._factors
        return (mixed >> np.uint64(65 - self._latest.shape[1].bit_length())).view(np.int64)

    def _knows(self, signature: Signature, latest: npt.NDArray[np.uint32], threshold: float) -> bool:
        """Says whether a signature is like one that it meets in some place."""
        met: list[int] = []
        before, bands = self._before, self._bands
        heads: list[int] = latest.tolist()
        for band, head in enumerate(heads):
            number = head
            while number:
                met.append(number)
                number = before[number * bands + band]
        candidates = np.array(met)
        if len(met) > _AT_ONCE:
            candidates = np.unique(candidates)
        for begin in range(0, len(candidates), _AT_ONCE):
            same = self._signatures[candidates[begin : begin + _AT_ONCE]] == signature
            alike = same[same.mean(axis=1) >= threshold]
            if len(alike) and self._banded(alike).all(axis=2).any():
                return True
        return False

    def _widen(self) -> None:
        """Makes the tables twice as wide."""
        self._latest = np.zeros((self._bands, 2 * self._latest.shape[1]), np.uint32)
        signatures = self._banded(self._signatures[1 : self._count + 1])
        before = np.frombuffer(self._before, np.uint32).reshape(-1, self._bands)
        for band, table in enumerate(self._latest):
            places = self._places(signatures[:, band])
            order = np.argsort(places, kind="stable")
            numbers, places = order.astype(np.uint32) + np.uint32(1), places[order]
            follows = places[1:] == places[:-1]
            before[numbers[:1], band] = 0
            before[numbers[1:], band] = np.where(follows, numbers[:-1], 0)
            ends = np.append(~follows, True)
            table[places[ends]] = numbers[ends]
