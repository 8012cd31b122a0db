"""Messages and answers that the sync and the async client have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yuan_client.values import Load, Model, Sampling, Scores, ServerInfo, Tokens, logprobs_of
from yuan_events import InputError
from yuan_manifest import load_cluster
from yuan_rpc import Connection, Security, Tls, connect
from yuan_rpc.inference.v1 import inference_pb2

Prompt = str | Sequence[int]
"""Text, or token ids."""


def connection_to(
    address: str, token_file: Path | str | None, authority: Path | str | None, *, plaintext: bool
) -> Connection:
    """Returns a connection to `HOST:PORT`; nothing is opened yet.

    Raises:
        InputError: if the address, the token or the certificate is wrong.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise InputError(f"{address}: expected HOST:PORT")
    security = Security(
        token_file=None if token_file is None else Path(token_file).expanduser(),
        tls=None if authority is None else Tls(authority=Path(authority).expanduser()),
        plaintext=plaintext,
    )
    return Connection("inference", host.strip("[]"), int(port), security)


def connection_of_cluster(file: Path | str | None) -> Connection:
    """Returns a connection to the inference service of a cluster manifest; None: YUAN_CLUSTER, or the default."""
    return connect("inference", load_cluster(None if file is None else Path(file)).cluster)


def generate_request(
    prompt: Prompt, model: str, sampling: Sampling | None, *, request_id: str, priority: int, adapter: str
) -> inference_pb2.GenerateRequest:
    """Returns the message.

    Raises:
        InputError: if a value does not fit into its field, or the prompt is no text.
    """
    message = inference_pb2.GenerateRequest(model=model, request_id=request_id, priority=priority, adapter=adapter)
    message.sampling_params.CopyFrom((sampling or Sampling()).to_wire())
    put_prompt(message, prompt)
    return message


def put_prompt(message: Any, prompt: Prompt) -> None:
    """Puts a prompt into a message.

    Raises:
        InputError: if it is no text, or no token ids.
    """
    try:
        if isinstance(prompt, str):
            message.prompt = prompt
        else:
            message.prompt_token_ids.extend(prompt)
    except (ValueError, TypeError) as error:
        raise InputError(f"prompt: {error}") from None


def score_request(prompt: Prompt, model: str, logprobs: int, adapter: str) -> inference_pb2.ScoreRequest:
    """Returns the message."""
    message = inference_pb2.ScoreRequest(model=model, logprobs=logprobs, adapter=adapter)
    put_prompt(message, prompt)
    return message


def scores_of(message: inference_pb2.ScoreResponse) -> Scores:
    """Returns them from their message."""
    return Scores(logprobs_of(message.logprobs), message.sum)


def tokens_of(message: inference_pb2.TokenizeResponse) -> Tokens:
    """Returns them from their message."""
    return Tokens(tuple(message.token_ids), tuple(message.pieces), message.max_model_len)


def server_info_of(message: inference_pb2.GetServerInfoResponse) -> ServerInfo:
    """Returns it from its message."""
    failed: Mapping[str, str] = dict(message.failed)
    models = tuple(Model.of(model) for model in message.models)
    return ServerInfo(message.version, message.uptime_seconds, message.draining, models, tuple(message.loading), failed)


def loads_of(message: inference_pb2.GetLoadsResponse) -> tuple[Load, ...]:
    """Returns them from their message."""
    return tuple(
        Load(
            one.model,
            one.num_requests_running,
            one.num_requests_waiting,
            one.used_blocks,
            one.total_blocks,
            one.max_batch,
            one.max_waiting,
        )
        for one in message.loads
    )
