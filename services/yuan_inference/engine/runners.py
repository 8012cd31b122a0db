"""Chooses who computes an engine's steps: the compiled step where there is one, else torch, with a line about it."""

import logging

from yuan_events import InputError
from yuan_inference.loaded import LoadedModel
from yuan_model import FlashPages, NativeRunner, NativeUnavailable, PagedRunner, PoolSize, Runner

_LOGGER = logging.getLogger("yuan_inference.engine")


def make_runner(loaded: LoadedModel, size: PoolSize) -> Runner:
    """Returns a runner for a model.

    Raises:
        InputError: if int8 is asked for where only torch can compute.
        MemoryError: if there is no memory for packed weights.
    """
    try:
        return NativeRunner(loaded.weights, size, int8=loaded.int8, drawable=loaded.tokenizer.vocab_size)
    except NativeUnavailable as error:
        if loaded.int8:
            raise InputError(f"dtype int8 needs the compiled step: {error}; use bf16 or fp32") from error
        if loaded.weights.device.type == "cpu":
            _LOGGER.warning("steps are computed by torch, several times slower than compiled: %s", error)
        return PagedRunner(
            loaded.model, size, flash=FlashPages.of(loaded.config, loaded.weights.dtype, loaded.weights.device)
        )
