"""Models and training states on disk: layouts written, checked and opened. What tensors mean is `yuan_model`'s."""

from yuan_checkpoint.checkpoint import Checkpoint, Source
from yuan_checkpoint.conversion import Conversion, write_checkpoint
from yuan_checkpoint.entries import CheckpointError
from yuan_checkpoint.huggingface import write_hugging_face
from yuan_checkpoint.native import finish_native, write_embedding_file, write_layer_file, write_native
from yuan_checkpoint.reading import load_for_inference, open_checkpoint, open_for_inference, open_model
from yuan_checkpoint.targets import LayoutError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Conversion",
    "LayoutError",
    "Source",
    "finish_native",
    "load_for_inference",
    "open_checkpoint",
    "open_for_inference",
    "open_model",
    "write_checkpoint",
    "write_embedding_file",
    "write_hugging_face",
    "write_layer_file",
    "write_native",
]
