"""What a client's user reads when a call fails: one line, with the mend where there is one.

The other direction, from errors to statuses, is in `errors.py`; a server that calls others passes on with `relay`.
"""

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from yuan_events import InputError, YuanError
from yuan_rpc.errors import (
    DETAILS_KEY,
    DOMAIN,
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RpcError,
    Unavailable,
)

_MessageT = TypeVar("_MessageT", bound=Message)

StatusCode = grpc.StatusCode
"""For who looks at a failure's code: what imports `grpc` itself may do so before `quiet` is."""

_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)


class RpcFailed(YuanError):
    """A call failed; the text is one line for the user.

    Attributes:
        code: its gRPC status.
        reason: ErrorInfo's reason, `NOT_FOUND` or the name of another layer's error (`ARTIFACT_NOT_FOUND`); empty where
            the status was not made by a server of ours.
        violations: what is wrong, by field path.
        resource: kind and name of the thing that it is about.
        retry_after: seconds after which another try may succeed.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode,
        *,
        reason: str = "",
        violations: dict[str, str] | None = None,
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.violations = violations or {}
        self.resource = resource
        self.retry_after = retry_after


class RpcRefused(RpcFailed, InputError):
    """A call failed for what the user gave: an argument, a name, a token. The exit code is 2."""

    exit_code = 2


class NotReached(RpcFailed):
    """No server is where the cluster's manifest says, or none that speaks as it says (TLS).

    For the user of a command that is bad input, with its exit code: the mend is a key of the manifest, or `yuan up`. It
    is no `InputError`: to a service that calls another, or to a watcher whose server has gone, it may pass.
    """

    exit_code = 2


def failure_of(
    error: grpc.RpcError,
    server: str,
    *,
    token_file: str | None = None,
    tls: bool = False,
    timeout: float | None = None,
    has_answered: bool = False,
) -> RpcFailed:
    """Returns what a failed call means to a user.

    Args:
        error: what a stub raised, of the sync or of the async kind.
        server: the server's name for messages, `127.0.0.1:7102 (trainer)`.
        token_file: where the token that was sent came from; None: none was sent.
        tls: whether the connection speaks TLS.
        timeout: the call's deadline in seconds, where it is known.
        has_answered: whether the server answered a call of this connection before: it is where and as it should be.
    """
    call = cast("Any", error)
    code = cast("grpc.StatusCode", call.code()) if hasattr(call, "code") else grpc.StatusCode.UNKNOWN
    text = " ".join((call.details() or "").split()) if hasattr(call, "details") else str(error)
    status = _status(call)
    information = _detail(status, error_details_pb2.ErrorInfo)
    ours = information is not None and information.domain == DOMAIN
    retry = _detail(status, error_details_pb2.RetryInfo)
    retry_after = retry.retry_delay.ToNanoseconds() / 1e9 if retry else None
    resource = _detail(status, error_details_pb2.ResourceInfo)
    request = _detail(status, error_details_pb2.BadRequest)
    if code == grpc.StatusCode.UNAUTHENTICATED:
        message = text if "has expired" in text else _unauthenticated(server, token_file)
    elif ours:
        message = text
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None:
            message = f"{text}; try again in {retry_after:.3g} s"
    else:
        message = _foreign(code, text, server, tls, timeout)
    if code in _REFUSED:
        kind = RpcRefused
    elif code == grpc.StatusCode.UNAVAILABLE and not ours and _is_not_reached(text, has_answered=has_answered):
        kind = NotReached
    else:
        kind = RpcFailed
    return kind(
        message,
        code,
        reason=information.reason if information is not None and ours else "",
        violations={row.field: row.description for row in request.field_violations} if request else None,
        resource=(resource.resource_type, resource.resource_name) if resource else None,
        retry_after=retry_after,
    )


def _unauthenticated(server: str, token_file: str | None) -> str:
    if token_file is None:
        return f"{server} asks for a token and none was sent; set cluster.security.token_file"
    return f"{server} does not know the token of {token_file}; it must be the file that the stack was started with"


def _foreign(code: grpc.StatusCode, text: str, server: str, tls: bool, timeout: float | None) -> str:
    """Words a status that gRPC itself made, on this side or the other."""
    if code == grpc.StatusCode.UNAVAILABLE:
        return _unreachable(text, server, tls)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        limit = f"within {timeout:g} s" if timeout is not None else "in time"
        return f"{server} did not answer {limit}"
    if code == grpc.StatusCode.CANCELLED:
        return f"the call to {server} was cancelled"
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return f"{server} does not know this call; is it of another version? ({text})"
    return f"{server}: {code.name}: {text}" if text else f"{server}: {code.name}"


def _unreachable(text: str, server: str, tls: bool) -> str:
    """Words a connection that did not come about or broke; gRPC tells why in its text alone."""
    if _is_of_tls(text):
        return _no_tls(text, server)
    if _is_silence(text):
        return f"nothing answers at {server}; start the stack with: yuan up"
    if _is_of_name(text):
        return f"the host of {server} is not known; see `host` of its section in cluster.services"
    if _is_of_protocol(text):
        return f"what answers at {server} is no gRPC server; see `port` of its section in cluster.services"
    if _is_broken(text):
        other = "asks for a client certificate (cluster.security.tls)" if tls else "speaks TLS (cluster.security.tls)"
        return f"{server} closed the connection: it was stopped, or it {other}"
    return f"{server} cannot be reached: {text}" if text else f"{server} cannot be reached"


def _is_not_reached(text: str, *, has_answered: bool) -> bool:
    """Whether gRPC's text for a failed connection means that what the manifest says of the server does not hold."""
    kinds = (_is_silence, _is_of_tls, _is_of_name, _is_of_protocol)
    return any(is_kind(text) for is_kind in kinds) or (_is_broken(text) and not has_answered)


def _is_silence(text: str) -> bool:
    """Whether nothing is there."""
    return _has(text, "connection refused", "timeout occurred", "unreachable")


def _is_of_tls(text: str) -> bool:
    """Whether a handshake failed."""
    return _has(text, "openssl_internal", "handshak")


def _is_of_name(text: str) -> bool:
    """Whether the host has no address."""
    return _has(text, "resolution failed", "resolving")


def _is_of_protocol(text: str) -> bool:
    """Whether something else than gRPC is there."""
    return _has(text, "http/2")


def _is_broken(text: str) -> bool:
    """Whether the server closed the connection: it ends, or it never spoke as we do."""
    return _has(text, "socket closed", "connection reset", "broken pipe", "goaway")


def _has(text: str, *words: str) -> bool:
    return any(word in text.lower() for word in words)


def _no_tls(text: str, server: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"no TLS with {server}: its certificate is not of an authority in cluster.security.tls.authority"
    if "WRONG_VERSION_NUMBER" in text:
        return f"no TLS with {server}: it speaks clear text; set cluster.security.tls to null or start it with TLS"
    return f"no TLS with {server}: {text.rpartition('OPENSSL_internal:')[2]}; see cluster.security.tls"


def _status(call: Any) -> status_pb2.Status | None:
    if not hasattr(call, "trailing_metadata"):
        return None
    metadata = cast("Iterable[tuple[str, str | bytes]]", call.trailing_metadata() or ())
    for key, value in metadata:
        if key == DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
            except DecodeError:
                return None
    return None


def _detail(status: status_pb2.Status | None, kind: type[_MessageT]) -> _MessageT | None:
    for packed in status.details if status else ():
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def relay(error: Exception) -> RpcError:
    """Returns what a handler tells its own caller when a call that it made itself has failed.

    A name that is not known stays that; a token that is refused is this server's trouble, not its caller's.
    """
    text = str(error)
    if not isinstance(error, RpcFailed):
        return Internal(text)
    resource = error.resource or ("", "")
    by_code: dict[grpc.StatusCode, RpcError] = {
        grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument(text, error.violations),
        grpc.StatusCode.NOT_FOUND: NotFound(*resource, text),
        grpc.StatusCode.ALREADY_EXISTS: AlreadyExists(*resource, text),
        grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition(text),
        grpc.StatusCode.PERMISSION_DENIED: PermissionDenied(text),
        grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted(text, error.retry_after),
        grpc.StatusCode.UNAVAILABLE: Unavailable(text, error.retry_after),
    }
    return by_code.get(error.code, Internal(text))
