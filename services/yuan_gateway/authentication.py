"""Who asks: one dependency for all routes, `Annotated[User, Depends(user)]`; `user_with(role)` asks for more.

The token is forwarded to the service behind, which counts what its tenant uses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from yuan_manifest.schema import Role
from yuan_rpc import Caller, PermissionDenied
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
    return User(request.app.state.gateway.callers.find(value), token if token.isascii() and token else None)


def user_with(role: Role) -> Callable[..., User]:
    """Returns a dependency that lets only some in.

    Args:
        role: that they need at least.
    """

    def check(found: Annotated[User, Depends(user)]) -> User:
        if not found.caller.may(role):
            raise PermissionDenied(
                f"this is for the role {role} and above; {found.caller.name} has {found.caller.role}"
            )
        return found

    return check


Asker = Annotated[User, Depends(user)]
"""For the signature of a route."""
