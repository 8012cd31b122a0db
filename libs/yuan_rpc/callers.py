"""Who calls: the owner of the stack's token, or somebody with a token, a role and limits of their own.

Tokens come from three places, each read anew when its file has changed: the stack's own file, the files of tenants that
the cluster's manifest names, and the file of issued tokens (`tokens.py`). What limits count is in the service that
counts it.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from yuan_events import InputError
from yuan_manifest.schema import Role
from yuan_rpc.access import may
from yuan_rpc.errors import PermissionDenied, Unauthenticated
from yuan_rpc.security import Security, is_bearer, read_token, read_tokens
from yuan_rpc.tokens import IssuedToken, digest_of, read_issued
from yuan_rpc.watched import Watched

OWNER_NAME = "owner"
"""How the owner of the stack's own token is called in messages and in the audit log."""


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
        name: theirs; empty: the owner of the stack's own token.
        role: what they may.
        limits: of what they ask for.
    """

    name: str = ""
    role: Role = Role.admin
    limits: Limits = field(default_factory=Limits)

    def __str__(self) -> str:
        return self.name or OWNER_NAME

    def may(self, role: Role) -> bool:
        """Returns whether they may what a role may."""
        return may(self.role, role)

    def require(self, role: Role, what: str) -> None:
        """Lets them go on only with a role.

        Args:
            role: that they need at least.
            what: they are about to do, `Submit`.

        Raises:
            PermissionDenied: if they have a lesser one.
        """
        if not self.may(role):
            raise PermissionDenied(f"{what} is for the role {role} and above; {self} has {self.role}")


@dataclass(frozen=True)
class Tenant:
    """A caller and the file with the token that they are known by.

    Attributes:
        caller: who.
        token_file: its token; several, one a line, all hold.
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
    """All that a server lets in, by their tokens as the files say now."""

    def __init__(
        self,
        server: str,
        security: Security,
        tenants: Sequence[Tenant] = (),
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Reads all tokens.

        Args:
            server: its name in messages.
            security: of the stack's own token, without which everybody is let in as its owner, and of issued ones.
            tenants: further callers.
            now: the time.

        Raises:
            InputError: if a token file is missing or wrong, or two have one token.
        """
        self._server = server
        self._now = now
        self._own = (
            None
            if security.token_file is None
            else Watched(partial(read_tokens, security.token_file), security.token_file)
        )
        self._tenants = [
            (Watched(partial(read_tokens, tenant.token_file), tenant.token_file), tenant) for tenant in tenants
        ]
        self._issued = (
            None if security.tokens is None else Watched(partial(read_issued, security.tokens), security.tokens)
        )
        taken = {} if security.token_file is None else {read_token(security.token_file): "cluster.security.token_file"}
        for tenant in tenants:
            holder = taken.setdefault(read_token(tenant.token_file), f"tenant {tenant.caller.name}")
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
        if self._own is None:
            return OWNER
        if authorization is None:
            raise Unauthenticated(f"{self._server} asks for a token and the call brought none")
        if any(is_bearer(authorization, token) for token in self._own.get()):
            return OWNER
        for file, tenant in self._tenants:
            if any(is_bearer(authorization, token) for token in file.get()):
                self._check(tenant.caller.name, tenant.expires)
                return tenant.caller
        issued = self._find_issued(authorization)
        if issued is None:
            raise Unauthenticated(f"{self._server} does not know the token that the call brought")
        self._check(issued.name, issued.expires)
        limits = Limits(issued.requests_per_minute, issued.tokens_per_minute, issued.concurrent_requests)
        return Caller(issued.name, issued.role, limits)

    def _find_issued(self, authorization: str | bytes) -> IssuedToken | None:
        if self._issued is None:
            return None
        given = authorization.encode("utf-8", "replace") if isinstance(authorization, str) else authorization
        scheme, _, token = given.partition(b" ")
        # Looked up by its digest: how long that takes tells of the digest, which nobody can aim at.
        return self._issued.get().get(digest_of(token)) if scheme == b"Bearer" else None

    def _check(self, name: str, expires: datetime | None) -> None:
        if expires is not None and self._now() >= expires:
            raise Unauthenticated(f"the token of {name} has expired ({expires.isoformat()})")


def moment_of(text: str) -> datetime:
    """Returns a manifest's day or time; UTC where it names no zone."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
