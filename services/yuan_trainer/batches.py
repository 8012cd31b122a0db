"""Which samples a step trains on, as the tensors that pipeline stages take.

Step k (from 1) takes samples (k-1)*B up to k*B of the blend; micro-batch m of it the m-th run of micro_batch_size.
That is fixed by the manifest alone: neither the topology nor a resume moves a sample.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from yuan_corpus import MaskedSample

MicroBatch = tuple[Tensor, tuple[Tensor, Tensor]]
"""Inputs int64 [b, s]; labels int64 [b, s] and their loss mask fp32 [b, s]."""

Sample = np.ndarray | MaskedSample
"""Tokens int64 [sequence length + 1], alone or with their loss mask."""


class Samples(Protocol):
    """Samples by number."""

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample."""
        ...


class ReadAhead:
    """Samples of one replica that a thread makes before they are asked for, in the order in which it will ask.

    A sample is a function of its number, so what was made ahead in vain (a run that goes back some steps) is only
    forgotten.
    """

    def __init__(self, samples: Samples, total: int, micro_batch_size: int, replicas: int) -> None:
        """Makes a reader.

        Args:
            samples: the source; only this object reads it.
            total: samples of the whole run.
            micro_batch_size: samples that follow each other; then come those of the other replicas.
            replicas: data-parallel size.
        """
        self._samples = samples
        self._total = total
        self._size, self._replicas = micro_batch_size, replicas
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._ahead: deque[tuple[int, Future[Sample]]] = deque()

    def __getitem__(self, index: int) -> Sample:
        """Returns one sample, and has the next two micro-batches made."""
        while self._ahead and self._ahead[0][0] != index:
            self._ahead.popleft()[1].cancel()
        future = self._ahead.popleft()[1] if self._ahead else self._thread.submit(self._samples.__getitem__, index)
        last = self._ahead[-1][0] if self._ahead else index
        while len(self._ahead) < 2 * self._size and (last := self._following(last)) < self._total:
            self._ahead.append((last, self._thread.submit(self._samples.__getitem__, last)))
        return future.result()

    def _following(self, index: int) -> int:
        """Returns the sample that this replica takes after one; the next step's begin where the last one's end."""
        ends_micro_batch = (index + 1) % self._size == 0
        return index + 1 + (self._replicas - 1) * self._size * ends_micro_batch


def micro_batch(samples: Samples, first: int, size: int, eod_mask_token: int | None) -> MicroBatch:
    """Returns samples first..first+size-1 as inputs, labels and mask.

    Args:
        samples: the source.
        first: number of the first sample.
        size: samples in the micro-batch.
        eod_mask_token: no loss where the input is this token; None: every position counts (YUAN_FACTS B5). Samples
            with a mask of their own keep that.
    """
    read = [samples[index] for index in range(first, first + size)]
    rows = [sample.tokens if isinstance(sample, MaskedSample) else sample for sample in read]
    tokens = torch.from_numpy(np.stack([np.asarray(row, np.int64) for row in rows]))
    inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    mask = torch.ones_like(labels, dtype=torch.float32)
    if eod_mask_token is not None:
        mask[inputs == eod_mask_token] = 0.0
    for row, sample in zip(mask, read, strict=True):
        if isinstance(sample, MaskedSample):
            row.copy_(torch.from_numpy(sample.mask))
    return inputs, (labels, mask)


def step_batches(
    samples: Samples, step: int, *, micro_batches: range, micro_batch_size: int, global_batch_size: int, eod: int | None
) -> Iterator[MicroBatch]:
    """Yields a replica's micro-batches of a step, in the order in which its pipeline takes them.

    Args:
        samples: the blend.
        step: the optimizer step, from 1.
        micro_batches: which of the step's micro-batches are this replica's (`Grid.micro_batches`).
        micro_batch_size: samples each.
        global_batch_size: samples of the whole step.
        eod: see `micro_batch`.
    """
    start = (step - 1) * global_batch_size
    for number in micro_batches:
        yield micro_batch(samples, start + number * micro_batch_size, micro_batch_size, eod)
