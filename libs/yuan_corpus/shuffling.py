"""The documents of a dataset in a random order, the same for the same seed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from yuan_corpus.indexed_dataset import IndexedDataset
from yuan_corpus.indexed_dataset_writer import IndexedDatasetWriter
from yuan_corpus.sharded_dataset import ShardedDataset
from yuan_corpus.statistics import ShardStatistics
from yuan_events import Interrupted

_AT_ONCE = 1 << 22
"""Tokens that are gathered before they are written."""


def shuffle_documents(
    prefixes: Sequence[Path],
    output: Path,
    seed: int,
    *,
    shard_bytes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[ShardStatistics]:
    """Writes `part-00000` and on with all documents of some pairs, by numpy's PCG64 permutation of the seed.

    Args:
        prefixes: the pairs, in order.
        output: a folder, none of theirs.
        seed: of the order.
        shard_bytes: size of `.bin` at which the next pair is begun.
        progress: is told tokens written and tokens in all.
        should_stop: asked now and then.

    Raises:
        Interrupted: if `should_stop()`; nothing half-written is left.
        OSError: if the disk is full.
    """
    dataset = ShardedDataset([IndexedDataset(prefix.with_name(prefix.name + ".idx")) for prefix in prefixes])
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(dataset))
    total, done = dataset.token_count, 0
    shards: list[ShardStatistics] = []
    # Documents that go into one pair, and within it those that are gathered at once, are runs of the new order.
    ends = np.cumsum(dataset.lengths[order], dtype=np.int64)
    start = 0
    while start < len(order):
        before = int(ends[start - 1]) if start else 0
        tokens = max(1, shard_bytes // dataset.dtype.itemsize)
        stop = min(len(order), int(np.searchsorted(ends, before + tokens)) + 1)
        name = f"part-{len(shards):05}"
        with IndexedDatasetWriter(output / name, dataset.dtype) as writer:
            while start < stop:
                if should_stop():
                    raise Interrupted("interrupted; run it again to begin this step anew")
                before = int(ends[start - 1]) if start else 0
                chunk = order[start : min(stop, int(np.searchsorted(ends, before + _AT_ONCE)) + 1)]
                ids = np.concatenate([dataset.get(item) for item in chunk.tolist()])
                writer.add_documents(ids, dataset.lengths[chunk])
                start += len(chunk)
                done += len(ids)
                progress(done, total)
            documents, tokens = writer.item_count, writer.token_count
        shards.append(ShardStatistics(name, documents, tokens))
    return shards
