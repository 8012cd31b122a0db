"""Opens models that a user named, in any layout, with errors of one line; loads them on the device that there is."""

from pathlib import Path

import torch

from yuan_checkpoint.checkpoint import Checkpoint
from yuan_checkpoint.entries import CheckpointError
from yuan_checkpoint.folders import is_model_folder, open_folder
from yuan_checkpoint.megatron import is_megatron, open_megatron
from yuan_checkpoint.states import is_training_state, open_training_state
from yuan_events import InputError
from yuan_model import FolderWeights, ModelFolder, ModelFolderError, Yuan


def open_checkpoint(path: Path, *, strict: bool = True) -> Checkpoint:
    """Opens a checkpoint in any known layout: native, Hugging Face, the original's (Megatron), a training state.

    Args:
        path: its folder; of the original, also one of its iterations; of a run, also the folder of all its states.
        strict: refuse tensors that are no part of the network; else `unknown` has their names.

    Raises:
        CheckpointError: naming the file or tensor that is missing or wrong.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    if is_training_state(path):
        return open_training_state(path, strict=strict)
    if is_megatron(path):
        return open_megatron(path, strict=strict)
    if is_model_folder(path) or any(path.glob("*.safetensors")) or any(path.glob("*.bin")):
        return open_folder(path, strict=strict)
    raise CheckpointError(
        f"{path}: no checkpoint; expected config.json with weights (native, Hugging Face), mp_rank_ folders (Megatron) "
        "or state.json (a training state)"
    )


def open_model(folder: Path) -> ModelFolder:
    """Opens a native or Hugging Face folder to load a model from.

    Raises:
        InputError: naming the file or tensor that is missing or wrong.
    """
    try:
        return ModelFolder(folder)
    except ModelFolderError as error:
        raise InputError(str(error)) from error


def open_for_inference(folder: Path, device: str = "auto", dtype: torch.dtype | None = None) -> FolderWeights:
    """Opens a model to compute with: in its stored dtype on CUDA, in fp32 on a processor. Reads no weights yet.

    Processors without bf16 arithmetic of their own compute bf16 twenty times slower than fp32.

    Args:
        folder: native or Hugging Face.
        device: `cuda`, `cuda:1`, `cpu`, or `auto`: CUDA where there is one.
        dtype: of the weights in place of those above; None: those above.

    Raises:
        InputError: if the folder is not a whole model, or there is no CUDA device where one is asked for.
    """
    available = torch.cuda.is_available()
    if device.startswith("cuda") and not available:
        raise InputError("topology.nodes.device: this host has no CUDA device; set topology.nodes.device=cpu")
    on_cuda = available and device != "cpu"
    opened = open_model(folder)
    place = device if device.startswith("cuda") else "cuda" if on_cuda else "cpu"
    return FolderWeights(opened, dtype or (None if on_cuda else torch.float32), place)


def load_for_inference(folder: Path, device: str = "auto", dtype: torch.dtype | None = None) -> Yuan:
    """Loads what `open_for_inference` opens.

    Raises:
        InputError: as there, or if a file cannot be read.
    """
    weights = open_for_inference(folder, device, dtype)
    try:
        return weights.network()
    except ModelFolderError as error:
        raise InputError(str(error)) from error
