"""`yuan generate` over gRPC: the stack's inference service goes on from a prompt.

The same options mean the same, and print the same, as in the foreground (`generating.py`).
"""

import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import typer

from yuan_events import InputError, Text, event_to_json
from yuan_events.printing import without_controls
from yuan_manifest import Cluster
from yuan_manifest.rules import LARGEST_SEED
from yuan_manifest.schema import SamplingSection
from yuan_rpc import Connection, RpcFailed, connect
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

LOADING_SECONDS = 300.0
"""How long a model that is being loaded is waited for."""

_SECONDS_BETWEEN_LOOKS = 0.5
_LOOK_SECONDS = 10.0
_CONNECT_SECONDS = 2.0

FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_ABORT: "abort",
}

# The last: what answers there is the server of another home.
_NOT_SERVED = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "NOT_FOUND", "FAILED_PRECONDITION", "UNAUTHENTICATED"})


@dataclass(frozen=True)
class ServedModel:
    """A model that a stack serves; a context manager, which closes the connection.

    Attributes:
        connection: to its server.
        info: what it says of itself.
        name: that it is asked for by: the model's, or one of its adapters'.
    """

    connection: Connection
    info: inference_pb2.GetModelInfoResponse
    name: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    @property
    def stub(self) -> inference_pb2_grpc.InferenceServiceStub:
        """The service's calls."""
        return self.connection.stub(inference_pb2_grpc.InferenceServiceStub)

    def stream(
        self, prompt: str, sampling: inference_pb2.SamplingParams
    ) -> Iterator[inference_pb2.GenerateStreamResponse]:
        """Yields a continuation as it comes; where this is left early, the server stops too.

        Raises:
            RpcFailed: if it cannot be made.
        """
        try:
            request = inference_pb2.GenerateRequest(model=self.name, prompt=prompt, sampling_params=sampling)
        except ValueError:
            raise InputError("the prompt is not UTF-8") from None
        with self.connection.errors():
            call: Any = self.stub.GenerateStream(inference_pb2.GenerateStreamRequest(request=request))
            try:
                yield from call
            finally:
                call.cancel()

    def count_tokens(self, text: str) -> int:
        """Returns how many tokens a text has."""
        with self.connection.errors():
            request = inference_pb2.TokenizeRequest(model=self.info.model, text=text)
            return len(self.stub.Tokenize(request).token_ids)


def served_model(cluster: Cluster, name: str = "") -> ServedModel:
    """Returns a model of the stack, once it is loaded.

    Args:
        cluster: the stack.
        name: that it is served under; empty: the only one.

    Raises:
        InputError: if the cluster has no inference service or no token.
        RpcFailed: if nothing answers, or it is not served.
    """
    connection = connect("inference", cluster, timeout=_LOOK_SECONDS)
    try:
        info = _info(connection, name)
        return ServedModel(connection, info, name or info.model)
    except BaseException:
        connection.close()
        raise


def served_model_or_none(cluster: Cluster, name: str) -> ServedModel | None:
    """Returns a model of the stack, or None where there is no stack or it serves none of that name."""
    section = cluster.services.inference
    if section is None or not _listens(section.host, section.port):
        return None
    try:
        return served_model(cluster, name)
    except RpcFailed as error:
        if error.code.name in _NOT_SERVED:
            return None
        raise
    except InputError:
        return None


def _listens(host: str, port: int) -> bool:
    """Says whether anything is at a port, without the retries of a call."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _info(connection: Connection, name: str) -> inference_pb2.GetModelInfoResponse:
    stub = connection.stub(inference_pb2_grpc.InferenceServiceStub)
    end = time.monotonic() + LOADING_SECONDS
    told = False
    while True:
        try:
            with connection.errors():
                return stub.GetModelInfo(inference_pb2.GetModelInfoRequest(model=name))
        except RpcFailed as error:
            # A reason is the server's own word: it is there, and loads the model.
            loads = error.code.name == "UNAVAILABLE" and error.reason
            if not loads or time.monotonic() > end:
                raise
            if not told:
                typer.echo(f"{error}; waiting for it", err=True)
                told = True
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def sampling_of(options: Mapping[str, object], defaults: SamplingSection | None = None) -> inference_pb2.SamplingParams:
    """Returns the sampling that a command's options mean; None is the default of a generate job's `sampling`."""
    section = defaults or SamplingSection()
    values: dict[str, Any] = {
        "max_tokens": section.max_tokens,
        "temperature": section.temperature,
        "top_k": section.top_k,
        "top_p": section.top_p,
        "seed": section.seed,
    }
    given = {name.replace("-", "_"): value for name, value in options.items() if value is not None}
    values |= {name: value for name, value in given.items() if name in values}
    if not 0 <= values["seed"] <= LARGEST_SEED:
        raise InputError(f"--seed: expected 0 to 2^63 - 1, found {values['seed']}")
    sampling = inference_pb2.SamplingParams()
    for name, value in values.items():
        try:
            setattr(sampling, name, value)
        except ValueError:
            raise InputError(f"--{name.replace('_', '-')}: {value} is too large a number, or too small") from None
    return sampling


def generate_over_grpc(
    model: ServedModel, prompt: str, options: Mapping[str, object], flags: Mapping[str, bool]
) -> int:
    """Prints what a served model adds to a prompt.

    Args:
        model: who goes on.
        prompt: from what.
        options: values by option name; None: the default.
        flags: `stream` and `json`.
    """
    parts = model.stream(prompt, sampling_of(options))
    if flags["json"] and flags["stream"]:
        _print_events(parts, prompt)
    elif flags["json"]:
        _print_object(list(parts), prompt)
    else:
        texts = (part.text for part in parts) if flags["stream"] else ["".join([part.text for part in parts])]
        for text in texts:
            write_text(text)
        sys.stdout.write("\n")
    return 0


def write_text(text: str) -> None:
    """Writes a piece of a model's text, harmless where stdout is a terminal."""
    sys.stdout.write(without_controls(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _print_object(parts: list[inference_pb2.GenerateStreamResponse], prompt: str) -> None:
    last = parts[-1]
    done = {
        "prompt": prompt,
        "text": "".join(part.text for part in parts),
        "prompt_tokens": last.usage.prompt_tokens,
        "new_tokens": last.usage.completion_tokens,
        "finish_reason": FINISH_REASONS.get(last.finish_reason, ""),
    }
    typer.echo(json.dumps(done, ensure_ascii=False))


def _print_events(parts: Iterator[inference_pb2.GenerateStreamResponse], prompt: str) -> None:
    def emit(event: Text) -> None:
        sys.stdout.write(event_to_json(event) + "\n")
        sys.stdout.flush()

    emit(Text(0, prompt, "prompt"))
    reason = ""
    for part in parts:
        if part.text:
            emit(Text(0, part.text))
        reason = FINISH_REASONS.get(part.finish_reason, reason)
    emit(Text(0, reason, "end"))
