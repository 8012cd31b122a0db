"""The sync client, which threads may share; `aio.py` is the same for an event loop."""

import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from yuan_client import asking
from yuan_client.asking import Prompt
from yuan_client.retrying import Retry
from yuan_client.values import Completion, Load, Model, Piece, Sampling, Scores, ServerInfo, Tokens
from yuan_rpc import Connection, RpcFailed
from yuan_rpc.inference.v1 import inference_pb2, inference_pb2_grpc

GENERATE_SECONDS = 600.0


class Client:
    """Asks one inference service; a context manager."""

    def __init__(self, connection: Connection, *, retry: Retry | None = None) -> None:
        """Args: connection: to the service. retry: when calls are made again; None: the default."""
        self._connection = connection
        self._retry = retry or Retry()

    @classmethod
    def at(
        cls,
        address: str,
        *,
        token_file: Path | str | None = None,
        authority: Path | str | None = None,
        plaintext: bool = False,
        retry: Retry | None = None,
    ) -> Self:
        """Returns a client of a server.

        Args:
            address: `HOST:PORT`.
            token_file: file of the bearer token.
            authority: PEM file of the authority that signed the server's certificate; None: clear text.
            plaintext: allows the token to leave this machine in clear text.
            retry: when calls are made again.

        Raises:
            InputError: if one of these is wrong.
        """
        return cls(asking.connection_to(address, token_file, authority, plaintext=plaintext), retry=retry)

    @classmethod
    def of_cluster(cls, file: Path | str | None = None, *, retry: Retry | None = None) -> Self:
        """Returns a client of a cluster's service; None: the cluster that `yuan` would take."""
        return cls(asking.connection_of_cluster(file), retry=retry)

    def generate(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        sampling: Sampling | None = None,
        request_id: str = "",
        priority: int = 0,
        adapter: str = "",
        timeout: float = GENERATE_SECONDS,
    ) -> Completion:
        """Returns a whole answer.

        Args:
            prompt: text or token ids.
            model: name that it is served under; empty: the only one.
            sampling: how tokens are drawn.
            request_id: for `abort`; empty: the server makes one.
            priority: lower is served first.
            adapter: a LoRA adapter of the model.
            timeout: seconds, over all attempts.

        Raises:
            InputError: if a value does not fit into its field.
            RpcFailed: if there is no answer; `RpcRefused` where the request is to blame.
        """
        message = asking.generate_request(
            prompt, model, sampling, request_id=request_id, priority=priority, adapter=adapter
        )
        return Completion.of(self._call("Generate", message, timeout, again=True))

    def stream(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        sampling: Sampling | None = None,
        request_id: str = "",
        priority: int = 0,
        adapter: str = "",
        timeout: float = GENERATE_SECONDS,
    ) -> Generator[Piece]:
        """Yields an answer as it comes; where this is left early (`close`), the server stops too.

        Args and errors are those of `generate`.
        """
        request = inference_pb2.GenerateStreamRequest(
            request=asking.generate_request(
                prompt, model, sampling, request_id=request_id, priority=priority, adapter=adapter
            )
        )
        waits, end = self._retry.waits(), time.monotonic() + timeout
        while True:
            begun = False
            call: Any = None
            try:
                with self._connection.errors(timeout):
                    call = self._stub.GenerateStream(request, timeout=max(0.0, end - time.monotonic()))
                    for part in call:
                        begun = True
                        yield Piece.of(part)
                return
            except RpcFailed as error:
                if begun:
                    raise
                time.sleep(waits.after(error, end - time.monotonic()))
            finally:
                if call is not None:
                    call.cancel()

    def score(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        logprobs: int = 0,
        adapter: str = "",
        timeout: float = GENERATE_SECONDS,
    ) -> Scores:
        """Returns how likely each token of a text is, with so many of the likeliest beside it."""
        message = asking.score_request(prompt, model, logprobs, adapter)
        return asking.scores_of(self._call("Score", message, timeout, again=True))

    def tokenize(self, text: str, *, model: str = "") -> Tokens:
        """Returns the ids that a model would see."""
        return asking.tokens_of(self._call("Tokenize", inference_pb2.TokenizeRequest(model=model, text=text)))

    def detokenize(self, token_ids: Sequence[int], *, model: str = "") -> str:
        """Returns the text of ids."""
        message = inference_pb2.DetokenizeRequest(model=model, token_ids=token_ids)
        return (self._call("Detokenize", message)).text

    def abort(self, *request_ids: str) -> tuple[str, ...]:
        """Ends requests; returns those that were running or waiting."""
        return tuple((self._call("Abort", inference_pb2.AbortRequest(request_ids=request_ids))).aborted)

    def model(self, name: str = "") -> Model:
        """Describes a served model; empty: the only one."""
        return Model.of(self._call("GetModelInfo", inference_pb2.GetModelInfoRequest(model=name)))

    def server_info(self) -> ServerInfo:
        """Describes the server and all that it serves."""
        return asking.server_info_of(self._call("GetServerInfo", inference_pb2.GetServerInfoRequest()))

    def loads(self) -> tuple[Load, ...]:
        """Says how busy each model is."""
        return asking.loads_of(self._call("GetLoads", inference_pb2.GetLoadsRequest()))

    def load_model(
        self,
        artifact: str,
        *,
        name: str = "",
        dtype: str = "",
        max_batch: int = 0,
        max_waiting: int = 0,
        kv_tokens: int = 0,
        tensor: int = 0,
        prompt_lookup: int = 0,
        adapters: Mapping[str, str] | None = None,
        timeout: float = 1800.0,
    ) -> Model:
        """Loads a model artifact and serves it, in place of what is served under that name.

        Args:
            artifact: `NAME[@VERSION]`.
            name: to ask for it by; empty: the artifact's.
            dtype: `fp32`, `bf16`, `fp16`, `int8`; empty: fp32 on a processor, as stored on CUDA.
            max_batch: requests that run at once; 0: the server's default.
            max_waiting: requests that may wait; 0: the server's default.
            kv_tokens: tokens that the cache holds over all requests; 0: the server's default.
            tensor: processes that share its matrices; 0: the server's own has them.
            prompt_lookup: tokens a step that are guessed from the text before; the same outputs.
            adapters: LoRA adapters by name, model artifacts that a fine-tuning of the model made.
            timeout: in seconds, of all of it.
        """
        message = inference_pb2.LoadModelRequest(
            artifact=artifact,
            name=name,
            dtype=dtype,
            max_batch=max_batch,
            max_waiting=max_waiting,
            kv_tokens=kv_tokens,
            tensor=tensor,
            prompt_lookup=prompt_lookup,
            adapters=adapters,
        )
        return Model.of((self._call("LoadModel", message, timeout)).info)

    def unload_model(self, name: str) -> str:
        """Serves a model no more; returns its artifact."""
        return (self._call("UnloadModel", inference_pb2.UnloadModelRequest(model=name))).artifact

    def _call(self, method: str, message: Any, timeout: float = 30.0, *, again: bool = False) -> Any:
        """Makes a unary call; with `again`, more than once where it may."""
        waits, end = self._retry.waits(), time.monotonic() + timeout
        while True:
            try:
                with self._connection.errors(timeout):
                    return getattr(self._stub, method)(message, timeout=max(0.0, end - time.monotonic()))
            except RpcFailed as error:
                if not again:
                    raise
                time.sleep(waits.after(error, end - time.monotonic()))

    @property
    def _stub(self) -> Any:
        return cast("Any", self._connection.stub(inference_pb2_grpc.InferenceServiceStub))

    def close(self) -> None:
        """Closes the connection; running calls end."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
