"""The Yuan 2.0 network in plain PyTorch: configuration, modules, loss, decoding, reading of model folders.

Knows nothing of jobs, ranks or training engines; those build on it.
"""

from yuan_model.attention import Attention
from yuan_model.block import Block, FeedForward
from yuan_model.cache import DecodeCache, LayerCache, LayerPast
from yuan_model.causal import document_segments
from yuan_model.config import YuanConfig
from yuan_model.flash import FLASH_PAGE_TOKENS, FlashPages, flash_installed
from yuan_model.folder import ModelFolder, ModelFolderError, StoredTensor, parameter_shapes
from yuan_model.generation import generate
from yuan_model.initialization import generator_of, initialize_
from yuan_model.loading import load_model
from yuan_model.localized_filter import CausalConvolution, LocalizedFilter
from yuan_model.loss import VocabularyShard, blockwise_cross_entropy, cross_entropy
from yuan_model.model import Yuan
from yuan_model.native import NativeRunner, NativeUnavailable, native_library
from yuan_model.norm import RMSNorm
from yuan_model.paged import PagedRunner
from yuan_model.paging import (
    BLOCK_TOKENS,
    AdapterRunner,
    Chunk,
    Factors,
    PoolSize,
    Runner,
    blocks_needed,
    bytes_per_token,
)
from yuan_model.recompute import Recompute
from yuan_model.rotary import RotaryTable
from yuan_model.weights import WHOLE, Division, FolderWeights, NetworkWeights, Weights, empty_network

__all__ = [
    "BLOCK_TOKENS",
    "FLASH_PAGE_TOKENS",
    "WHOLE",
    "AdapterRunner",
    "Attention",
    "Block",
    "CausalConvolution",
    "Chunk",
    "DecodeCache",
    "Division",
    "Factors",
    "FeedForward",
    "FlashPages",
    "FolderWeights",
    "LayerCache",
    "LayerPast",
    "LocalizedFilter",
    "ModelFolder",
    "ModelFolderError",
    "NativeRunner",
    "NativeUnavailable",
    "NetworkWeights",
    "PagedRunner",
    "PoolSize",
    "RMSNorm",
    "Recompute",
    "RotaryTable",
    "Runner",
    "StoredTensor",
    "VocabularyShard",
    "Weights",
    "Yuan",
    "YuanConfig",
    "blocks_needed",
    "blockwise_cross_entropy",
    "bytes_per_token",
    "cross_entropy",
    "document_segments",
    "empty_network",
    "flash_installed",
    "generate",
    "generator_of",
    "initialize_",
    "load_model",
    "native_library",
    "parameter_shapes",
]
