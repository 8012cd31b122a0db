"""Who asks: one dependency for all routes, `Annotated[User, Depends(user)]`.

`user_for(METHOD)` asks for the role that a service asks for, `user_with(role)` for one that the route names.
The token is forwarded to the service behind, which counts what its tenant uses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from yuan_manifest.schema import Role
from yuan_rpc import Caller
from yuan_rpc.access import rule_of
from yuan_rpc.security import bearer


@dataclass(frozen=True)
class User:
    """Who asks.

    Attributes:
        caller: their name and role.
        token: that they brought; None: none, where none is asked for.
    """

    caller: Caller
    token: str | None


def user(request: Request) -> User:
    """Returns who asks.

    Raises:
        Unauthenticated: if they brought no token, an unknown one or an expired one.
    """
    scheme, _, token = request.headers.get("authorization", "").strip().partition(" ")
    token = token.strip() if scheme.lower() == "bearer" else ""
    # A header may hold any byte; a token is ASCII.
    value = bearer(token).encode("utf-8", "replace") if token else None
    caller = request.app.state.gateway.callers.find(value)
    # For the guard around all routes, which tells who was refused and whose request it was.
    request.state.caller = caller
    return User(caller, token if token.isascii() and token else None)


def user_for(method: str) -> Callable[..., User]:
    """Returns a dependency that lets in whom a service lets in.

    Args:
        method: full name of its call, `/yuan.jobs.v1.JobService/Cancel`.
    """
    return user_with(rule_of(method).role, method.rpartition("/")[2])


def user_with(role: Role, what: str = "this") -> Callable[..., User]:
    """Returns a dependency that lets only some in.

    Args:
        role: that they need at least.
        what: they are about to do, for the message.
    """

    def check(found: Annotated[User, Depends(user)]) -> User:
        found.caller.require(role, what)
        return found

    return check


Asker = Annotated[User, Depends(user)]
"""For the signature of a route."""
