"""The console as a part of the gateway: its routes, its files, login, and errors as pages."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.staticfiles import StaticFiles

from yuan_gateway.console.access import (
    LANGUAGE_COOKIE,
    PATH,
    SESSION_COOKIE,
    THEME_COOKIE,
    Anybody,
    Form,
    LoginNeeded,
    Sessions,
    anybody,
    set_cookie,
)
from yuan_gateway.console.pages import Pages
from yuan_gateway.console.stack import Stack
from yuan_manifest import ClusterManifest
from yuan_rpc import Unauthenticated
from yuan_rpc.security import bearer

router = APIRouter(prefix=PATH, include_in_schema=False)

_LONGEST_TOKEN = 1000


class Console:
    """What all pages share; `close` it."""

    def __init__(self, manifest: ClusterManifest, token: Callable[[], str | None]) -> None:
        """Args: manifest: the cluster. token: says the stack's own."""
        self.manifest = manifest
        self.stack = Stack(manifest.cluster)
        self.sessions = Sessions(token)
        self.pages = Pages()

    async def close(self) -> None:
        """Closes its connections."""
        await self.stack.close()


class _Files(StaticFiles):
    """The console's own files; a browser asks whether they have changed."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Returns a file."""
        answer = super().file_response(*arguments, **options)
        answer.headers["cache-control"] = "no-cache"
        answer.headers["x-content-type-options"] = "nosniff"
        return answer


def add_console(app: FastAPI) -> None:
    """Adds the console to the gateway's application."""
    from yuan_gateway.console import jobs, streams  # noqa: PLC0415 - they import this module

    app.mount(f"{PATH}/static", _Files(directory=str(files("yuan_gateway.console") / "static")))
    for part in (router, jobs.router, streams.router):
        app.include_router(part)

    def login_needed(request: Request, error: Exception) -> Response:
        del error
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        back = here if request.method == "GET" and "hx-request" not in request.headers else PATH
        return console_of(request).pages.moved(request, f"{PATH}/login?next={quote(back, safe='')}")

    app.add_exception_handler(LoginNeeded, login_needed)


def console_of(request: Request) -> Console:
    """Returns the console that a request came to."""
    return request.app.state.gateway.console


def problem_page(request: Request, status: int, message: str) -> Response:
    """Returns a page that says what went wrong, in one line."""
    pages = console_of(request).pages
    return pages.answer(
        request, anybody(request), "problem.html", {"status": status, "message": message}, status=status
    )


@router.get("")
@router.get("/")
async def start(request: Request) -> Response:
    """Leads to the first page."""
    return console_of(request).pages.moved(request, f"{PATH}/jobs")


@router.get("/login")
async def login_page(request: Request, visitor: Anybody, next: str = "") -> Response:
    """Asks for a token."""
    if visitor.user is not None:
        return console_of(request).pages.moved(request, _inside(next))
    values = {"next": _inside(next), "problem": ""}
    return console_of(request).pages.answer(request, visitor, "login.html", values)


@router.post("/login")
async def login(request: Request, visitor: Anybody, fields: Form) -> Response:
    """Begins a session."""
    console = console_of(request)
    token = "".join(fields.get("token", "")[:_LONGEST_TOKEN].split())
    where = _inside(fields.get("next", ""))
    try:
        request.app.state.gateway.callers.find(bearer(token).encode("utf-8", "replace") if token else None)
    except Unauthenticated as error:
        values = {"next": where, "problem": str(error)}
        return console.pages.answer(request, visitor, "login.html", values, status=401)
    answer = console.pages.dressed(request, visitor, console.pages.moved(request, where))
    if token:
        set_cookie(request, answer, SESSION_COOKIE, console.sessions.make(token))
    return answer


@router.post("/logout")
async def logout(request: Request, fields: Form) -> Response:
    """Ends a session."""
    del fields
    answer = console_of(request).pages.moved(request, f"{PATH}/login")
    answer.delete_cookie(SESSION_COOKIE, path=PATH, httponly=True, samesite="strict")
    return answer


@router.post("/preferences")
async def preferences(request: Request, fields: Form) -> Response:
    """Keeps language and theme in the browser."""
    pages = console_of(request).pages
    answer = pages.moved(request, _inside(fields.get("next", "")))
    if fields.get("language") in pages.languages:
        set_cookie(request, answer, LANGUAGE_COOKIE, fields["language"], lasting=True)
    if fields.get("theme") in ("light", "dark", "auto"):
        set_cookie(request, answer, THEME_COOKIE, fields["theme"], lasting=True)
    return answer


def _inside(where: str) -> str:
    """Returns a page of the console, whatever a link says."""
    parts = urlsplit(where)
    inside = not parts.scheme and not parts.netloc and (parts.path == PATH or parts.path.startswith(f"{PATH}/"))
    if not inside or "\\" in where or not where.isprintable() or parts.path.startswith(f"{PATH}/login"):
        return f"{PATH}/jobs"
    return where
