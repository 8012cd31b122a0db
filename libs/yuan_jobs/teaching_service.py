"""`yuan.cotraining.v1.CotrainingService`: teaching requests of the one registry, on every job server.

Thin: what filing and reviewing mean is in `teaching_registry.py`, which blocks, so every call works in a thread.
Whoever may call files and reads; reviewing is for operators (`yuan_rpc.access`), as is editing what others filed.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from yuan_events import InputError, one_line
from yuan_jobs import teaching_registry as requests
from yuan_jobs.registry import Registry
from yuan_jobs.teaching import BadRequest, NewRequest, request_of_plain
from yuan_jobs.teaching_messages import plain_text, request_message, request_state_of
from yuan_manifest.schema import Role
from yuan_manifest.values import format_path
from yuan_rpc import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Mount,
    NotFound,
    PermissionDenied,
    RpcError,
    Translations,
)
from yuan_rpc.callers import current_caller
from yuan_rpc.cotraining.v1 import cotraining_pb2, cotraining_pb2_grpc

SERVICE = "yuan.cotraining.v1.CotrainingService"

_PAGE, _LARGEST_PAGE = 100, 1000
_LONGEST_NAME = 100


def teaching_service(registry: Registry) -> Mount:
    """Returns the CotrainingService of a server."""
    add = cotraining_pb2_grpc.add_CotrainingServiceServicer_to_server
    return Mount(add, CotrainingServicer(registry), SERVICE)


@dataclass(frozen=True)
class CotrainingServicer(cotraining_pb2_grpc.CotrainingServiceServicer):
    """Answers on one registry."""

    registry: Registry

    async def File(  # noqa: N802 - the proto's name, as below
        self, request: cotraining_pb2.FileRequest, context: Any
    ) -> cotraining_pb2.FileResponse:
        """Files a request."""
        del context
        who = _who(request.by)
        asked = _asked(request.text, who)
        made = await asyncio.to_thread(requests.file_request, self.registry, asked, who)
        return cotraining_pb2.FileResponse(request=request_message(made))

    async def Edit(  # noqa: N802
        self, request: cotraining_pb2.EditRequest, context: Any
    ) -> cotraining_pb2.EditResponse:
        """Puts another text in place of a request's."""
        del context
        who, caller = _who(request.by), current_caller.get()

        def edit() -> cotraining_pb2.EditResponse:
            found = requests.find_request(self.registry, request.id)
            if not caller.may(Role.operator) and found.filed_by != caller.name:
                raise PermissionDenied(f"request {found.id} is of {found.filed_by}; an operator may edit it, too")
            asked = _asked(request.text, found.asked.author)
            made = requests.edit_request(self.registry, found.id, asked, who)
            return cotraining_pb2.EditResponse(request=request_message(made))

        return await asyncio.to_thread(edit)

    async def Review(  # noqa: N802
        self, request: cotraining_pb2.ReviewRequest, context: Any
    ) -> cotraining_pb2.ReviewResponse:
        """Accepts or rejects a request."""
        del context
        who = _who(request.by)

        def review() -> cotraining_pb2.ReviewResponse:
            made = requests.review_request(
                self.registry, request.id, accept=request.accept, why=request.why, who=who, revision=request.revision
            )
            return cotraining_pb2.ReviewResponse(request=request_message(made))

        return await asyncio.to_thread(review)

    async def Get(  # noqa: N802
        self, request: cotraining_pb2.GetRequest, context: Any
    ) -> cotraining_pb2.GetResponse:
        """Returns one request."""
        del context
        found = await asyncio.to_thread(requests.find_request, self.registry, request.id)
        return cotraining_pb2.GetResponse(request=request_message(found))

    async def List(  # noqa: N802
        self, request: cotraining_pb2.ListRequest, context: Any
    ) -> cotraining_pb2.ListResponse:
        """Lists requests, newest first."""
        del context
        if request.page_size < 0:
            problem = f"expected 0 or more, found {request.page_size}"
            raise InvalidArgument(f"page_size: {problem}", {"page_size": problem})
        size = min(request.page_size or _PAGE, _LARGEST_PAGE)
        with _field("states"):
            states = [request_state_of(state) for state in request.states]

        def find() -> cotraining_pb2.ListResponse:
            with _field("page_token"):
                found = requests.list_requests(self.registry, states, limit=size + 1, before=request.page_token)
            token = found[size - 1].id if len(found) > size else ""
            messages = [request_message(one) for one in found[:size]]
            return cotraining_pb2.ListResponse(requests=messages, next_page_token=token)

        return await asyncio.to_thread(find)


def _who(given: str) -> str:
    """Returns who calls: a tenant by their token; the owner of the stack's token by what they say."""
    name = current_caller.get().name or " ".join(given.split()) or "owner"
    if len(name) > _LONGEST_NAME:
        problem = f"is {len(name)} characters long; expected {_LONGEST_NAME} at most"
        raise InvalidArgument(f"by: {problem}", {"by": problem})
    return name


def _asked(text: cotraining_pb2.Text, author: str) -> NewRequest:
    try:
        return request_of_plain(plain_text(text), author=author)
    except BadRequest as error:
        raise InvalidArgument(one_line(error), {format_path(("text", *error.path)): error.problem}) from None


@contextmanager
def _field(name: str) -> Generator[None]:
    """Says of what is wrong with the input in the block which field of the call it is about."""
    try:
        yield
    except InputError as error:
        raise InvalidArgument(f"{name}: {one_line(error)}", {name: one_line(error)}) from None


def _missing(error: Exception) -> RpcError:
    return NotFound("request", error.request_id if isinstance(error, requests.NoSuchRequest) else "", one_line(error))


def _same(error: Exception) -> RpcError:
    name = error.request_id if isinstance(error, requests.SameRequest) else ""
    return AlreadyExists("request", name, one_line(error))


TRANSLATIONS: Translations = {
    requests.NoSuchRequest: _missing,
    requests.SameRequest: _same,
    requests.WrongRequestState: lambda error: FailedPrecondition(one_line(error)),
}
"""What errors of requests mean on the wire."""
