"""Who calls: the owner of the stack's token, or a tenant with a token, a role and limits of its own.

What a tenant's limits count is in the service that counts it.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from yuan_events import InputError
from yuan_manifest.schema import Role
from yuan_rpc.errors import Unauthenticated
from yuan_rpc.security import is_bearer, read_token

_RANKS = {Role.viewer: 0, Role.operator: 1, Role.admin: 2}


@dataclass(frozen=True)
class Limits:
    """What one caller may ask for; None: no limit.

    Attributes:
        requests_per_minute: new requests.
        tokens_per_minute: of prompts and answers together.
        concurrent_requests: that run or wait at once.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None


@dataclass(frozen=True)
class Caller:
    """Who a call is from.

    Attributes:
        name: the tenant's; empty: the owner of the stack's own token.
        role: what they may.
        limits: of what they ask for.
    """

    name: str = ""
    role: Role = Role.admin
    limits: Limits = field(default_factory=Limits)

    def may(self, role: Role) -> bool:
        """Returns whether they may what a role may."""
        return _RANKS[self.role] >= _RANKS[role]


@dataclass(frozen=True)
class Tenant:
    """A caller and the file with the token that they are known by.

    Attributes:
        caller: who.
        token_file: its token.
        expires: when the token ends; None: never.
    """

    caller: Caller
    token_file: Path
    expires: datetime | None = None


OWNER = Caller()
"""Who brings the stack's own token, or calls a server that asks for none."""

current_caller: ContextVar[Caller] = ContextVar("current_caller", default=OWNER)
"""Who the call that is being handled is from."""


class Callers:
    """All that a server lets in, by their tokens."""

    def __init__(self, server: str, token: str | None, tenants: Sequence[Tenant] = ()) -> None:
        """Reads the tenants' tokens.

        Args:
            server: its name in messages.
            token: the stack's own; None: everybody is let in, as its owner.
            tenants: further ones.

        Raises:
            InputError: if a token file is missing or wrong, or two have one token.
        """
        self._server = server
        self._token = token
        self._tenants = [(read_token(tenant.token_file), tenant) for tenant in tenants]
        taken = {token: "cluster.security.token_file"}
        for own, tenant in self._tenants:
            holder = taken.setdefault(own, f"tenant {tenant.caller.name}")
            if holder != f"tenant {tenant.caller.name}":
                raise InputError(
                    f"{tenant.token_file}: has the token of {holder}; delete it and `yuan up` makes a new one"
                )

    def find(self, authorization: str | bytes | None) -> Caller:
        """Returns who a call is from.

        Args:
            authorization: `Bearer …`; None: the call brought none.

        Raises:
            Unauthenticated: if it brought none, an unknown one, or one that has expired.
        """
        if self._token is None:
            return OWNER
        if authorization is None:
            raise Unauthenticated(f"{self._server} asks for a token and the call brought none")
        if is_bearer(authorization, self._token):
            return OWNER
        for own, tenant in self._tenants:
            if is_bearer(authorization, own):
                if tenant.expires is not None and datetime.now(UTC) >= tenant.expires:
                    raise Unauthenticated(
                        f"the token of {tenant.caller.name} has expired ({tenant.expires.isoformat()})"
                    )
                return tenant.caller
        raise Unauthenticated(f"{self._server} does not know the token that the call brought")


def moment_of(text: str) -> datetime:
    """Returns a manifest's day or time; UTC where it names no zone."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
