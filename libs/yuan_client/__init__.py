"""A Python client of the inference service: sync and async, streaming, with retries that are safe.

    from yuan_client import Client, Sampling

    with Client.of_cluster() as client:
        print(client.generate("import os", sampling=Sampling(temperature=0, max_tokens=32)).text)
        for piece in client.stream("import os"):
            print(piece.text, end="", flush=True)

What a call means is in `protos/yuan/inference/v1`; how connections, tokens and TLS work in `yuan_rpc`.
"""

from yuan_client.aio import AsyncClient
from yuan_client.client import Client
from yuan_client.retrying import Retry
from yuan_client.values import (
    Choice,
    Completion,
    FinishReason,
    Load,
    Logprob,
    Model,
    Piece,
    Sampling,
    Scores,
    ServerInfo,
    Structure,
    Tokens,
    Usage,
)
from yuan_rpc import RpcFailed, RpcRefused

__all__ = [
    "AsyncClient",
    "Choice",
    "Client",
    "Completion",
    "FinishReason",
    "Load",
    "Logprob",
    "Model",
    "Piece",
    "Retry",
    "RpcFailed",
    "RpcRefused",
    "Sampling",
    "Scores",
    "ServerInfo",
    "Structure",
    "Tokens",
    "Usage",
]
