"""`load_model`: a folder in, a module ready for inference out."""

from pathlib import Path

import torch

from yuan_model.folder import ModelFolder
from yuan_model.model import Yuan


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
    folder = ModelFolder(path)
    with torch.device("meta"):
        model = Yuan(folder.config)  # no memory and no random numbers: every parameter is assigned below
    weights = {name: tensor.to(device=device, dtype=dtype) for name, tensor in folder.tensors()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()
