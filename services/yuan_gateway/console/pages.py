"""Pages as the browser gets them: templates, texts in the visitor's language, headers that let nothing foreign run.

Every value is escaped by Jinja2; no template marks text of a user as safe, and the Content-Security-Policy would run
no script of a page's own text even if one did.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, PackageLoader, StrictUndefined

from yuan_gateway.console.access import PATH, SEED_COOKIE, Visitor, set_cookie
from yuan_jobs.messages import state_of
from yuan_manifest import Kind
from yuan_rpc import VERSION

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

SECTIONS = ("jobs",)
"""Pages of the navigation, each at its name."""

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_AGES = ((86_400, "days"), (3600, "hours"), (60, "minutes"))
_SPANS = ((86_400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s"))


class Pages:
    """The templates and catalogues of the console."""

    def __init__(self) -> None:
        folder = files("yuan_gateway.console") / "languages"
        self._texts: dict[str, dict[str, str]] = {
            entry.name.removesuffix(".json"): json.loads(entry.read_text(encoding="utf-8"))
            for entry in folder.iterdir()
            if entry.name.endswith(".json")
        }
        self._templates = Environment(
            loader=PackageLoader("yuan_gateway.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "size": size_text,
            "moment": moment_of,
            "number": lambda value: f"{value:,}",
            "span": span_text,
            "figure": lambda value: f"{value:.6g}" if isinstance(value, float) else str(value),
        }
        self._templates.globals |= {
            "PATH": PATH,
            "VERSION": VERSION,
            "SECTIONS": SECTIONS,
            "KINDS": list(Kind),
            "state_name": lambda job: state_of(job.state).value,
        }

    @property
    def languages(self) -> list[str]:
        """Names of the languages."""
        return sorted(self._texts)

    def text(self, language: str, key: str, **values: object) -> str:
        """Returns a text of the catalogue.

        Raises:
            KeyError: if it has none of that key.
        """
        text = self._texts[language][key]
        return text.format(**values) if values else text

    def answer(
        self,
        request: Request,
        visitor: Visitor,
        template: str,
        values: Mapping[str, Any],
        *,
        status: int = 200,
    ) -> HTMLResponse:
        """Returns a page, or what htmx puts in place of a part of one.

        Args:
            request: what it answers.
            visitor: who sees it.
            template: its file.
            values: for the template.
            status: of HTTP.
        """

        def t(key: str, **words: object) -> str:
            return self.text(visitor.language, key, **words)

        def ago(moment: Timestamp) -> str:
            seconds = max(0.0, (datetime.now(UTC) - moment.ToDatetime(UTC)).total_seconds())
            for size, unit in _AGES:
                if seconds >= size:
                    return t(f"ago.{unit}", n=int(seconds / size))
            return t("ago.seconds", n=int(seconds))

        page = self._templates.get_template(template).render(
            t=t,
            ago=ago,
            visitor=visitor,
            languages=[(name, self._texts[name]["language.name"]) for name in self.languages],
            path=request.url.path,
            here=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            is_part="hx-request" in request.headers,
            **values,
        )
        return self.dressed(request, visitor, HTMLResponse(page, status))

    def dressed(self, request: Request, visitor: Visitor, answer: Any) -> Any:
        """Adds the headers of every answer of the console, and the cookie that its forms are checked by."""
        for name, value in HEADERS.items():
            answer.headers[name] = value
        if request.cookies.get(SEED_COOKIE) != visitor.seed:
            set_cookie(request, answer, SEED_COOKIE, visitor.seed)
        return answer

    def moved(self, request: Request, where: str) -> Response:
        """Returns an answer that leads the browser to another page of the console."""
        if "hx-request" in request.headers:
            return Response(status_code=204, headers={**HEADERS, "hx-redirect": where})
        return RedirectResponse(where, 303, headers=HEADERS)


def size_text(count: float) -> str:
    """Returns bytes as people say them."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


def moment_of(moment: Timestamp | datetime) -> str:
    """Returns a time, in UTC."""
    time = moment.ToDatetime(UTC) if isinstance(moment, Timestamp) else moment
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def span_text(seconds: float) -> str:
    """Returns a length of time, `1 h 5 min`."""
    for size, part, name, part_name in _SPANS:
        if seconds >= size:
            rest = int(seconds % size) // part
            return f"{int(seconds // size)} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{seconds:.1f} s"
