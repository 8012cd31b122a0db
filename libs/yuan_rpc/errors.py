"""Errors of a server's handlers: each knows its gRPC status and the google.rpc details that go with it.

A handler raises one of these, or any `YuanError`, which `as_rpc_error` gives a status. What a client makes of a status
is in `failures.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from yuan_events import InputError, Interrupted, YuanError, one_line
from yuan_manifest import ManifestError

DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata key of a serialized google.rpc.Status."""

DOMAIN = "yuan"
"""Domain of our ErrorInfo details."""

# Clients refuse more than 8 KiB of metadata by default; the message travels twice, once percent-encoded.
_MESSAGE_LIMIT = 2000
_DETAILS_LIMIT = 2000


class RpcError(YuanError):
    """An error with a gRPC status; its text is one line that the client's user will read."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def details(self) -> Sequence[Message]:
        """Returns the google.rpc details besides ErrorInfo, which every error gets."""
        return ()


class InvalidArgument(RpcError, InputError):
    """A request that no state of the server would make right.

    Attributes:
        violations: what is wrong, by field path (`sampling_params.top_p`).
    """

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, message: str, violations: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.violations = dict(violations or {})

    def details(self) -> Sequence[Message]:
        """Returns BadRequest."""
        rows = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=_cut(description, 500))
            for field, description in self.violations.items()
        ]
        return (error_details_pb2.BadRequest(field_violations=rows),) if rows else ()


class _OfResource(RpcError, InputError):
    """An error about one named thing.

    Attributes:
        resource_type: what kind of thing, `job` or `artifact`.
        name: its name or id.
    """

    def __init__(self, resource_type: str, name: str, message: str) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.name = name

    def details(self) -> Sequence[Message]:
        """Returns ResourceInfo."""
        return (error_details_pb2.ResourceInfo(resource_type=self.resource_type, resource_name=_cut(self.name, 300)),)


class NotFound(_OfResource):
    """A job, an artifact, a model that does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(_OfResource):
    """A name or an idempotency key that stands for something else."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(RpcError, InputError):
    """A right request at the wrong time: resuming a job that runs, generating before anything is deployed."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class _Retriable(RpcError):
    """An error that passes.

    Attributes:
        retry_after: seconds after which another try may succeed; None: not known.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def details(self) -> Sequence[Message]:
        """Returns RetryInfo."""
        if self.retry_after is None:
            return ()
        delay = Duration()
        delay.FromNanoseconds(int(self.retry_after * 1e9))
        return (error_details_pb2.RetryInfo(retry_delay=delay),)


class ResourceExhausted(_Retriable):
    """A queue or a quota is full."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(_Retriable):
    """The server cannot answer now: it shuts down, or what it needs is away. Clients retry idempotent calls."""

    code = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(RpcError, InputError):
    """No token, or a wrong one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(RpcError, InputError):
    """A token that is known, and does not allow this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Internal(RpcError):
    """The request was right and its work failed."""


Translations = Mapping[type[Exception], Callable[[Exception], RpcError]]
"""What errors of other layers mean on the wire, by class; the nearest base class of an error decides."""


def as_rpc_error(error: Exception, translations: Translations | None = None) -> RpcError | None:
    """Returns what an error means on the wire, or None for one that is nobody's but the server's own fault.

    Args:
        error: what a handler raised.
        translations: for classes that this library does not know (`ArtifactNotFound`).
    """
    if isinstance(error, RpcError):
        return error
    for base in type(error).__mro__:
        translate = (translations or {}).get(base)
        if translate is not None:
            return translate(error)
    if not isinstance(error, YuanError):
        return None
    text = one_line(error)
    if isinstance(error, InputError):
        key = error.key if isinstance(error, ManifestError) else ""
        return InvalidArgument(text, {key: text} if key else None)
    return Unavailable(text) if isinstance(error, Interrupted) else Internal(text)


def status_of(error: RpcError, cause: Exception | None = None) -> status_pb2.Status:
    """Returns the google.rpc.Status of an error, small enough for any client's metadata limit.

    Args:
        error: what is sent.
        cause: what it was translated from; its class names the ErrorInfo's reason.
    """
    status = status_pb2.Status(code=error.code.value[0], message=_cut(one_line(error), _MESSAGE_LIMIT))
    reason = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(cause or error).__name__).upper()
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN), *error.details()):
        packed = AnyMessage()
        packed.Pack(detail)
        # The first one always goes; a list of violations that is too long is left out whole rather than cut.
        if not status.details or sum(row.ByteSize() for row in status.details) + packed.ByteSize() <= _DETAILS_LIMIT:
            status.details.append(packed)
    return status


def _cut(text: str, limit: int) -> str:
    """Shortens a text until its percent-encoded form has at most `limit` bytes."""
    if len(quote(text)) <= limit:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(quote(text[:middle])) <= limit - 9 else (low, middle - 1)
    return text[:low] + "…"
