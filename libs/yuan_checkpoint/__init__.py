"""Models and training states on disk: layouts written, checked and opened. What tensors mean is `yuan_model`'s."""

from yuan_checkpoint.huggingface import LayoutError, write_hugging_face
from yuan_checkpoint.megatron import MegatronFolder
from yuan_checkpoint.native import finish_native, write_embedding_file, write_layer_file, write_native
from yuan_checkpoint.reading import load_for_inference, open_model, open_weights

__all__ = [
    "LayoutError",
    "MegatronFolder",
    "finish_native",
    "load_for_inference",
    "open_model",
    "open_weights",
    "write_embedding_file",
    "write_hugging_face",
    "write_layer_file",
    "write_native",
]
