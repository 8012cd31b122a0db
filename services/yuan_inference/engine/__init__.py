"""Continuous batching: one thread a served model, whose sequences join and leave the running batch between steps.

Tokens in, tokens and text out. Knows nothing of gRPC, jobs and artifacts.
"""

from yuan_inference.engine.engine import Engine
from yuan_inference.engine.metrics import EngineMetrics
from yuan_inference.engine.options import EngineLoad, EngineOptions, EngineStopped, QueueFull, UnknownAdapter
from yuan_inference.engine.request import (
    Beam,
    Deliver,
    Failure,
    FinishReason,
    Output,
    Request,
    Sampling,
    Structure,
    StructureKind,
    TokenLogprob,
)
from yuan_inference.engine.structure import StructureError

__all__ = [
    "Beam",
    "Deliver",
    "Engine",
    "EngineLoad",
    "EngineMetrics",
    "EngineOptions",
    "EngineStopped",
    "Failure",
    "FinishReason",
    "Output",
    "QueueFull",
    "Request",
    "Sampling",
    "Structure",
    "StructureError",
    "StructureKind",
    "TokenLogprob",
    "UnknownAdapter",
]
