"""The Yuan 2.0 network in plain PyTorch: configuration, modules, loss, decoding, reading of model folders.

Knows nothing of jobs, ranks or training engines; those build on it.
"""

from yuan_model.attention import Attention, document_segments
from yuan_model.block import Block, FeedForward
from yuan_model.cache import DecodeCache, LayerCache
from yuan_model.config import YuanConfig
from yuan_model.folder import ModelFolder, ModelFolderError, parameter_shapes
from yuan_model.generation import generate
from yuan_model.initialization import initialize_
from yuan_model.loading import load_model
from yuan_model.localized_filter import CausalConvolution, LocalizedFilter
from yuan_model.loss import cross_entropy
from yuan_model.model import Yuan
from yuan_model.norm import RMSNorm
from yuan_model.rotary import RotaryTable

__all__ = [
    "Attention",
    "Block",
    "CausalConvolution",
    "DecodeCache",
    "FeedForward",
    "LayerCache",
    "LocalizedFilter",
    "ModelFolder",
    "ModelFolderError",
    "RMSNorm",
    "RotaryTable",
    "Yuan",
    "YuanConfig",
    "cross_entropy",
    "document_segments",
    "generate",
    "initialize_",
    "load_model",
    "parameter_shapes",
]
