"""A dataset folder: one or more `.bin`/`.idx` pairs seen as one, in the order of their names."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yuan_corpus.errors import IndexedDatasetError
from yuan_corpus.indexed_dataset import IndexedDataset
from yuan_corpus.statistics import STATISTICS_FILE_NAME, DatasetStatistics


class ShardedDataset:
    """Items of several indexed datasets, numbered through.

    Attributes:
        shards: the pairs, in order; all of one dtype.
        lengths: int32 [n], tokens of each item.
    """

    def __init__(self, shards: Sequence[IndexedDataset]) -> None:
        """Lays shards end to end.

        Raises:
            IndexedDatasetError: if there are none, or they store ids differently.
        """
        if not shards:
            raise IndexedDatasetError("no dataset: it must have at least one .bin/.idx pair")
        for shard in shards[1:]:
            if shard.dtype != shards[0].dtype:
                raise IndexedDatasetError(
                    f"{shard.prefix}: stores {shard.dtype.name} where {shards[0].prefix} stores "
                    f"{shards[0].dtype.name}; shards of one dataset must agree"
                )
        self.shards = tuple(shards)
        self.lengths: npt.NDArray[np.int32] = (
            shards[0].lengths if len(shards) == 1 else np.concatenate([shard.lengths for shard in shards])
        )
        self._firsts = list(accumulate((len(shard) for shard in shards), initial=0))

    def __len__(self) -> int:
        """Returns the number of items."""
        return len(self.lengths)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored ids."""
        return self.shards[0].dtype

    @property
    def token_count(self) -> int:
        """Tokens of all items."""
        return int(self.lengths.sum(dtype=np.int64))

    def get(self, item: int, offset: int = 0, length: int | None = None) -> npt.NDArray[Any]:
        """Returns tokens of one item as `IndexedDataset.get` does.

        Raises:
            IndexError: if there is no such item or part of one.
        """
        if not 0 <= item < len(self.lengths):
            raise IndexError(f"item {item} of {len(self.lengths)}")
        # The last shard that begins at or before the item; empty ones before it begin there too.
        shard = bisect_right(self._firsts, item) - 1
        return self.shards[shard].get(item - self._firsts[shard], offset, length)

    def __getitem__(self, item: int) -> npt.NDArray[Any]:
        """Returns all tokens of an item."""
        return self.get(item)


def open_dataset(path: Path | str) -> ShardedDataset:
    """Opens a dataset: a folder with `.bin`/`.idx` pairs, or the prefix of one pair.

    Raises:
        IndexedDatasetError: if there is none or one is broken.
    """
    path = Path(path)
    if not path.is_dir():
        return ShardedDataset([IndexedDataset(path)])
    # A pair of which one is missing is told when it is opened, not passed over.
    prefixes = sorted({file.with_suffix("") for end in ("idx", "bin") for file in path.glob(f"*.{end}")})
    if not any(prefix.with_name(prefix.name + ".idx").exists() for prefix in prefixes):
        raise IndexedDatasetError(f"{path}: no .bin/.idx pair in this folder; it is not a dataset")
    if (path / STATISTICS_FILE_NAME).exists():
        names = {prefix.name for prefix in prefixes}
        lost = [shard.name for shard in DatasetStatistics.read(path).shards if shard.name not in names]
        if lost:
            raise IndexedDatasetError(f"{path}: {lost[0]}.bin and .idx are missing of this dataset; copy all of it")
    return ShardedDataset([IndexedDataset(prefix.with_name(prefix.name + ".idx")) for prefix in prefixes])
