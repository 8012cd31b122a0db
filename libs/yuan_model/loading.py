"""`load_model`: a folder in, a module ready for inference out."""

from pathlib import Path

import torch

from yuan_model.folder import ModelFolder
from yuan_model.model import Yuan
from yuan_model.weights import FolderWeights


def load_model(path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> Yuan:
    """Reads a native or a Hugging Face folder.

    Args:
        path: the folder, with `config.json` and `model.safetensors` or its index.
        dtype: of the weights; None keeps each as stored.
        device: where the weights go.

    Returns:
        The model in eval mode: `model(input_ids)` with int64 [batch, sequence] gives logits [batch, sequence, vocab].

    Raises:
        ModelFolderError: a ValueError that names the file or tensor that is missing, unknown or wrong.
    """
    return FolderWeights(ModelFolder(path), dtype, device).network()
