"""Who looks at the console: the session in their cookie, the defence against forged requests, and what they may do.

A session is the visitor's own token, encrypted with a key made from the stack's. It is looked up at every request, so
that a token which is withdrawn, or whose role changes, does so here at once; nothing is kept in this process, and any
gateway of the cluster knows every session.
"""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qs

from cryptography.fernet import Fernet, InvalidToken
from fastapi import Depends, Request, Response

from yuan_gateway.authentication import User
from yuan_gateway.errors import Refused
from yuan_rpc import Unauthenticated
from yuan_rpc.access import rule_of
from yuan_rpc.security import bearer

SESSION_COOKIE, SEED_COOKIE = "yuan_console", "yuan_console_seed"
LANGUAGE_COOKIE, THEME_COOKIE = "yuan_console_language", "yuan_console_theme"
PATH = "/console"

SESSION_SECONDS = 12 * 3600
_YEAR_SECONDS = 365 * 24 * 3600

METHOD_OF = {"cancel": "/yuan.jobs.v1.JobService/Cancel", "resume": "/yuan.jobs.v1.JobService/Resume"}
"""The calls behind what needs more than looking: who may make them is in the table that the services go by, too."""


class LoginNeeded(Exception):
    """The visitor is nobody that the stack knows."""


class Sessions:
    """Makes and reads sessions; they end when the stack's own token is replaced."""

    def __init__(self, token: Callable[[], str | None]) -> None:
        """Args: token: says the stack's own as it is now; None: it has none, and a session means nothing."""
        self._token = token
        self._without = secrets.token_hex()

    def make(self, token: str) -> str:
        """Returns the session of who has a token."""
        return self._box().encrypt(token.encode()).decode()

    def token_of(self, session: str) -> str | None:
        """Returns the token of a session; None: it is none of ours, or too old."""
        try:
            return self._box().decrypt(session.encode(), ttl=SESSION_SECONDS).decode()
        except (InvalidToken, UnicodeEncodeError):
            return None

    def proof(self, seed: str, session: str) -> str:
        """Returns what a form must carry that was sent to the browser with these cookies."""
        return hmac.new(self._key(), f"{seed}\0{session}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        return hashlib.sha256(b"yuan console session:" + (self._token() or self._without).encode()).digest()

    def _box(self) -> Fernet:
        return Fernet(urlsafe_b64encode(self._key()))


@dataclass(frozen=True)
class Visitor:
    """Who looks, and how they want to see it.

    Attributes:
        user: with the token that calls are made with; None: not logged in.
        seed: half of what forms are checked by.
        proof: the other half, in every form.
        language: of the texts, a file in `languages/`.
        theme: `light`, `dark`; empty: as the browser says.
    """

    user: User | None
    seed: str
    proof: str
    language: str
    theme: str

    @property
    def token(self) -> str | None:
        """The visitor's token; None where none is asked for."""
        return self.user.token if self.user else None

    def may(self, action: str) -> bool:
        """Returns whether they may do something of `METHOD_OF`."""
        return self.user is not None and self.user.caller.may(rule_of(METHOD_OF[action]).role)


def anybody(request: Request) -> Visitor:
    """Returns who looks, logged in or not."""
    console = request.app.state.gateway.console
    session = request.cookies.get(SESSION_COOKIE, "")
    seed = request.cookies.get(SEED_COOKIE, "")
    if not (16 <= len(seed) <= 64 and seed.isascii() and seed.isalnum()):
        seed = secrets.token_hex(16)
    token = console.sessions.token_of(session) if session else None
    try:
        caller = request.app.state.gateway.callers.find(bearer(token) if token else None)
        user = User(caller, token)
    except Unauthenticated:
        user = None
    theme = request.cookies.get(THEME_COOKIE, "")
    return Visitor(
        user=user,
        seed=seed,
        proof=console.sessions.proof(seed, session),
        language=_language(request, console.pages.languages),
        theme=theme if theme in ("light", "dark") else "",
    )


def somebody(found: Annotated[Visitor, Depends(anybody)]) -> Visitor:
    """Returns who looks.

    Raises:
        LoginNeeded: if nobody is logged in.
    """
    if found.user is None:
        raise LoginNeeded
    return found


async def checked_form(request: Request, found: Annotated[Visitor, Depends(anybody)]) -> dict[str, str]:
    """Returns the fields of a form that this console has sent to this very browser.

    Raises:
        Refused: if it comes from elsewhere.
    """
    fields: dict[str, str] = {}
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        body = (await request.body()).decode("utf-8", "replace")
        fields = {
            name: values[-1] for name, values in parse_qs(body, keep_blank_values=True, max_num_fields=100).items()
        }
    _check(request, found, fields.pop("proof", ""))
    return fields


def checked(request: Request, found: Annotated[Visitor, Depends(somebody)]) -> Visitor:
    """Returns who sends something that is no form; as `checked_form`."""
    _check(request, found, "")
    return found


def _check(request: Request, found: Visitor, proof: str) -> None:
    given = request.headers.get("x-console-proof", proof)
    elsewhere = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
    if elsewhere or not hmac.compare_digest(given.encode(), found.proof.encode()):
        raise Refused("this form is not the console's, or too old; load the page again", status=403)


def require(found: Visitor, action: str) -> None:
    """Lets only those go on who may do something of `METHOD_OF`.

    Raises:
        LoginNeeded: if nobody is logged in.
        PermissionDenied: if they may not.
    """
    if found.user is None:
        raise LoginNeeded
    found.user.caller.require(rule_of(METHOD_OF[action]).role, action)


def set_cookie(request: Request, response: Response, name: str, value: str, *, lasting: bool = False) -> None:
    """Gives the browser a cookie that no script and no other site's request has; `lasting`: for a year."""
    response.set_cookie(
        name,
        value,
        path=PATH,
        max_age=_YEAR_SECONDS if lasting else None,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def _language(request: Request, known: list[str]) -> str:
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    if chosen in known:
        return chosen
    for part in request.headers.get("accept-language", "").split(","):
        name = part.partition(";")[0].strip().lower().partition("-")[0]
        if name in known:
            return name
    return "en"


Anybody = Annotated[Visitor, Depends(anybody)]
Somebody = Annotated[Visitor, Depends(somebody)]
Checked = Annotated[Visitor, Depends(checked)]
Form = Annotated[dict[str, str], Depends(checked_form)]
"""For the signatures of routes."""
