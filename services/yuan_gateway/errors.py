"""Errors as OpenAI's clients expect them: `{"error": {message, type, param, code}}` and a status.

`PUT /yuan` has a form of its own, also for what goes wrong before it is reached.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from yuan_events import YuanError, one_line
from yuan_gateway.yuan_errors import YUAN_PATH, yuan_failure
from yuan_rpc import RpcFailed, StatusCode
from yuan_rpc.errors import InvalidArgument, RpcError

_STATUSES = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.NOT_FOUND: 404,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 503,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.CANCELLED: 499,
}

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    501: "not_implemented_error",
}


class ErrorFacts(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorFacts


class Refused(Exception):
    """A request that the gateway itself refuses.

    Attributes:
        status: of HTTP.
        param: the field that is wrong.
        code: a word for programs.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


def body_of(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Returns the body of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_AS_THEY_ARE: Mapping[str, str] = {}


def facts_of(
    error: Exception, names: Mapping[str, str] = _AS_THEY_ARE
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Returns status, body and headers of an error of the service behind, or of our own.

    Args:
        error: what went wrong.
        names: what the client calls the fields of the gRPC request that have another name here.
    """
    if isinstance(error, Refused):
        return error.status, body_of(error.status, str(error), error.param, error.code), {}
    if isinstance(error, RpcFailed | RpcError):
        return _of_rpc(error, names)
    if isinstance(error, YuanError):
        return 500, body_of(500, one_line(error)), {}
    return 500, body_of(500, "the gateway failed unexpectedly; its log says why"), {}


def _of_rpc(error: RpcFailed | RpcError, names: Mapping[str, str]) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    status = _STATUSES.get(error.code, 500)
    param, message = named(error, names)
    code = None
    if isinstance(error, RpcFailed) and error.code is StatusCode.NOT_FOUND and error.resource:
        code, param = f"{error.resource[0]}_not_found", "model"
    if status == 401:
        code = "invalid_api_key"
    if status == 429:
        code = "rate_limit_exceeded"
    headers: dict[str, str] = {}
    retry = getattr(error, "retry_after", None)
    if retry is None and error.code is StatusCode.UNAVAILABLE:  # nothing answers that could have said when
        retry = 1.0
    if retry is not None:
        headers["retry-after"] = str(max(1, round(retry)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return status, body_of(status, message, param, code), headers


def named(error: RpcFailed | RpcError, names: Mapping[str, str]) -> tuple[str | None, str]:
    """Returns the field that a refusal is about (None: none) and its message, both as the client calls the field."""
    violations = error.violations if isinstance(error, RpcFailed | InvalidArgument) else {}
    field = next(iter(violations), None)
    if field is None:
        return None, str(error)
    own = field.removeprefix("sampling_params.")
    param = names.get(own, own)
    return param, str(error).replace(f"{field}:", f"{param}:", 1)


def names_of(request: Request) -> Mapping[str, str]:
    """Returns what a request's client calls the fields of the gRPC request; its route has said so."""
    return getattr(request.state, "names", _AS_THEY_ARE)


def answer_of(request: Request, error: Exception) -> Response:
    """Returns an error as the route's clients expect it."""
    status, body, headers = facts_of(error, names_of(request))
    if _is_page(request):
        from yuan_gateway.console.shell import problem_page  # noqa: PLC0415 - it imports this module

        return problem_page(request, status, body["error"]["message"])
    if request.url.path == YUAN_PATH:
        return JSONResponse(yuan_failure(body["error"]["message"], bad_input=status < 500), status, dict(headers))
    return JSONResponse(body, status, dict(headers))


def _is_page(request: Request) -> bool:
    """Returns whether a browser shows what the answer says."""
    if request.url.path.partition("/")[2].partition("/")[0] != "console" or "app" not in request.scope:
        return False
    is_shown = "text/html" in request.headers.get("accept", "") or "hx-request" in request.headers
    return request.app.state.gateway.console is not None and is_shown


def add_handlers(app: FastAPI) -> None:
    """Makes every error of the application one of these."""

    def expected(request: Request, error: Exception) -> Response:
        return answer_of(request, error)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
        return answer_of(request, refused_of(error))

    def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - as above
        message = str(error.detail)
        if error.status_code == 404:
            message = f"there is nothing at {request.method} {request.url.path[:100]}"
        answer = answer_of(request, Refused(message, status=error.status_code))
        for key, value in (error.headers or {}).items():
            answer.headers[key] = value
        return answer

    for kind in (Refused, RpcFailed, RpcError, YuanError):
        app.add_exception_handler(kind, expected)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)


def refused_of(error: RequestValidationError) -> Refused:
    """Returns what is wrong with a body, in one line."""
    first = _plainest(error.errors())
    place = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    # Of alternatives (text or list) pydantic names each by its type.
    names = [part for part in place if "[" not in part and part not in _BRANCHES]
    while len(names) > 1 and names[-1].isdigit():  # which of a list's values it is, no client looks for
        names.pop()
    param = ".".join(names) or None
    if first["type"] == "json_invalid":
        return Refused("the body is no JSON", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return Refused(f"{param}: unknown field", param=param, code="unknown_field")
    if first["type"] == "missing" and param is None:
        return Refused("the body is empty; expected a JSON object", code="invalid_json")
    message = str(first["msg"])
    return Refused(f"{param}: {message}" if param else f"the body: {message}", param=param)


def _plainest(errors: Sequence[Any]) -> Any:
    """Returns the first error; of several alternatives for a list (or text) one whose kind the value is of."""
    first = errors[0]
    if first["type"] != "string_type" or not isinstance(first.get("input"), list):
        return first
    place = first["loc"][:-1]
    same = (error for error in errors if error["loc"][: len(place)] == place and not error["type"].endswith("_type"))
    return next(same, first)


_BRANCHES = frozenset({"str", "int", "float", "constrained-str", "constrained-int"})
