"""Continuous batching: one thread a served model, whose sequences join and leave the running batch between steps.

Tokens in, tokens and text out. Knows nothing of gRPC, jobs and artifacts.
"""

from yuan_inference.engine.engine import Engine, EngineOptions, EngineStopped, QueueFull
from yuan_inference.engine.metrics import EngineMetrics
from yuan_inference.engine.request import Deliver, FinishReason, Output, Request, Sampling

__all__ = [
    "Deliver",
    "Engine",
    "EngineMetrics",
    "EngineOptions",
    "EngineStopped",
    "FinishReason",
    "Output",
    "QueueFull",
    "Request",
    "Sampling",
]
