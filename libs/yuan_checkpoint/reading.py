"""Opens models that a user named: `yuan_model`'s reading, with its errors as a user's, on the device that there is."""

from pathlib import Path

import torch

from yuan_checkpoint.megatron import MegatronFolder, is_megatron
from yuan_events import InputError
from yuan_model import ModelFolder, ModelFolderError, Yuan, load_model


def open_model(folder: Path) -> ModelFolder:
    """Opens a native or Hugging Face folder to read tensors from.

    Raises:
        InputError: naming the file or tensor that is missing or wrong.
    """
    try:
        return ModelFolder(folder)
    except ModelFolderError as error:
        raise InputError(str(error)) from error


def load_for_inference(folder: Path, device: str = "auto", dtype: torch.dtype | None = None) -> Yuan:
    """Loads a model to compute with: in its stored dtype on CUDA, in fp32 on a processor.

    Processors without bf16 arithmetic of their own compute bf16 twenty times slower than fp32.

    Args:
        folder: native or Hugging Face.
        device: `cuda`, `cpu`, or `auto`: CUDA where there is one.
        dtype: of the weights in place of those above; None: those above.

    Raises:
        InputError: if the folder is not a whole model, or there is no CUDA device where one is asked for.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise InputError("topology.nodes.device: this host has no CUDA device; set topology.nodes.device=cpu")
    on_cuda = available and device != "cpu"
    try:
        return load_model(folder, dtype or (None if on_cuda else torch.float32), "cuda" if on_cuda else "cpu")
    except ModelFolderError as error:
        raise InputError(str(error)) from error


def open_weights(folder: Path) -> ModelFolder | MegatronFolder:
    """Opens a model in any layout that is known: native, Hugging Face, or the original's (Megatron).

    Raises:
        InputError: naming the file or tensor that is missing or wrong.
    """
    if not is_megatron(folder):
        return open_model(folder)
    try:
        return MegatronFolder(folder)
    except ModelFolderError as error:
        raise InputError(str(error)) from error
