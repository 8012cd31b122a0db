"""How fast samples are laid out over a corpus, against the walk through its documents that the original's layout is.

    python benchmarks/sampling.py [--tokens 1e9] [--mean 500] [--sequence-length 4096] [--epochs 1]

Document lengths are drawn lognormally. `layout` makes all three index arrays of a `PackedDataset` (documents, samples,
shuffle); `kept` finds them in the cache; `walk` makes the sample index alone, document by document in plain Python, for
a hundredth of the tokens, and the layout of that hundredth is compared with it, number for number. `blend` chooses
between three datasets for as many samples. Then samples are read from memory at random.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from yuan_corpus import PackedDataset
from yuan_corpus.blending import blending_index
from yuan_corpus.packing import sample_index

ResultT = TypeVar("ResultT")


class Corpus:
    """Documents of given lengths, all of one array of tokens."""

    def __init__(self, lengths: npt.NDArray[np.int32]) -> None:
        self.lengths = lengths
        self._tokens = np.arange(int(lengths.max()), dtype=np.int32)

    def get(self, item: int, offset: int = 0, length: int | None = None) -> npt.NDArray[np.int32]:
        """Returns tokens of a document."""
        end = int(self.lengths[item]) if length is None else offset + length
        return self._tokens[offset:end]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=1e9)
    parser.add_argument("--mean", type=float, default=500)
    parser.add_argument("--sequence-length", type=int, default=4096)
    parser.add_argument("--epochs", type=float, default=1)
    arguments = parser.parse_args()
    lengths = drawn(arguments.tokens, arguments.mean)
    corpus, documents = Corpus(lengths), range(len(lengths))
    samples = int(arguments.tokens * arguments.epochs) // arguments.sequence_length - 1
    print(f"{arguments.tokens:,.0f} tokens, {len(lengths):,} documents, {samples:,} samples")
    with tempfile.TemporaryDirectory() as folder:
        make = lambda: PackedDataset(  # noqa: E731
            corpus, documents, samples, arguments.sequence_length, 1234, cache=Path(folder)
        )
        packed, seconds = timed(make)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
        rate = arguments.tokens * arguments.epochs / seconds / 1e6
        print(f"layout   {seconds:8.2f} s   {rate:,.0f} million tokens a second")
        found, kept = timed(make)
        assert np.array_equal(found.sample_index, packed.sample_index)
        print(f"kept     {kept:8.2f} s   {seconds / kept:.1f} times as fast; {size / 1e6:.0f} MB on disk")
    part = lengths[: len(lengths) // 100]
    order = np.random.RandomState(1).permutation(len(part)).astype(np.int32)
    ours, fast = timed(lambda: sample_index(part, order, arguments.sequence_length))
    theirs, slow = timed(lambda: walk(part, order, arguments.sequence_length))
    assert ours.tolist() == theirs
    print(f"walk     {slow * 100:8.2f} s   for all of it; the same samples {slow / fast:,.0f} times as slow")
    _, blend = timed(lambda: blending_index([0.5, 0.3, 0.2], samples))
    print(f"blend    {blend:8.2f} s   of three datasets, {samples / blend:,.0f} samples a second")
    chosen = np.random.RandomState(2).randint(0, len(packed), 2000).tolist()
    _, reading = timed(lambda: [packed[index] for index in chosen])
    print(f"read     {reading / len(chosen) * 1e6:8.1f} us a sample")


def drawn(tokens: float, mean: float) -> npt.NDArray[np.int32]:
    """Returns lengths that sum to about as many tokens."""
    random = np.random.RandomState(0)
    return np.maximum(1, random.lognormal(np.log(mean) - 0.5, 1.0, int(tokens / mean))).astype(np.int32)


def timed(work: Callable[[], ResultT]) -> tuple[ResultT, float]:
    """Returns what a function returns and how long it took."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def walk(lengths: npt.NDArray[np.int32], order: npt.NDArray[np.int32], sequence_length: int) -> list[list[int]]:
    """The original's way: sample after sample, document after document."""
    sizes = lengths[order].tolist()
    rows = [[0, 0]]
    document = offset = 0
    for _ in range((sum(sizes) - 1) // sequence_length):
        left = sequence_length + 1
        while left > 0:
            here = sizes[document] - offset
            left -= here
            if left <= 0:
                offset += left + here - 1
            else:
                document, offset = document + 1, 0
        rows.append([document, offset])
    return rows


if __name__ == "__main__":
    main()
