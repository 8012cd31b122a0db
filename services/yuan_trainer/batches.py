"""Which samples a step trains on, as the tensors that pipeline stages take.

Step k (from 1) takes samples (k-1)*B up to k*B of the blend; micro-batch m of it the m-th run of micro_batch_size.
That is fixed by the manifest alone: neither the topology nor a resume moves a sample.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

MicroBatch = tuple[Tensor, tuple[Tensor, Tensor]]
"""Inputs int64 [b, s]; labels int64 [b, s] and their loss mask fp32 [b, s]."""


class Samples(Protocol):
    """Samples by number: int64 of sequence length + 1."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns one sample."""
        ...


def micro_batch(samples: Samples, first: int, size: int, eod_mask_token: int | None) -> MicroBatch:
    """Returns samples first..first+size-1 as inputs, labels and mask.

    Args:
        samples: the source.
        first: number of the first sample.
        size: samples in the micro-batch.
        eod_mask_token: no loss where the input is this token; None: every position counts (YUAN_FACTS B5).
    """
    tokens = torch.from_numpy(np.stack([np.asarray(samples[index], np.int64) for index in range(first, first + size)]))
    inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    mask = torch.ones_like(labels, dtype=torch.float32)
    if eod_mask_token is not None:
        mask[inputs == eod_mask_token] = 0.0
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
