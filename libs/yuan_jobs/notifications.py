"""Webhooks that are told how a job ended: noted in the registry first, so that a stack that goes down loses none.

Only hosts that the cluster's manifest names are called, and no redirection of theirs is followed: a manifest that
somebody submits must not make the stack call what only it can reach.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from fnmatch import fnmatchcase
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from yuan_events import InputError
from yuan_jobs.models import JobRow, NotificationRow
from yuan_jobs.registry import Registry, now
from yuan_jobs.requests import Request
from yuan_jobs.schedules import scheduling_of
from yuan_jobs.states import ACTIVE
from yuan_manifest import SchedulingSection

MOST_TRIES = 8
SECONDS_BETWEEN_TRIES = 5.0
"""Before the second try; doubled before each further one: the last one comes ten minutes after the first."""

_SECONDS_TO_ANSWER = 10.0
_AT_ONCE = 4


def check_webhooks(request: Request, hosts: Sequence[str]) -> None:
    """Checks that the cluster lets the webhooks of a request be called.

    Raises:
        InputError: naming the first one that it does not.
    """
    for index, url in enumerate(scheduling_of(request).notify):
        if not is_allowed(url, hosts):
            listed = ", ".join(hosts) or "none"
            raise InputError(
                f"{request.name}: scheduling.notify[{index}]: host {urlsplit(url).hostname} is not among "
                f"cluster.security.webhook_hosts ({listed})"
            )


def is_allowed(url: str, hosts: Sequence[str]) -> bool:
    """Says whether a webhook's host is one of those listed; `*.example.org` stands for all below example.org."""
    host = urlsplit(url).hostname or ""
    return any(fnmatchcase(host, one.lower()) for one in hosts)


def note_ended(registry: Registry) -> None:
    """Notes for every job that has ended whom to tell. Doing it twice notes nothing twice."""
    query = select(JobRow).where(JobRow.notify, JobRow.state.not_in(ACTIVE))
    with registry.database.reading() as session:
        if session.scalar(query.limit(1)) is None:
            return
    with registry.database.writing() as session:
        for row in session.scalars(query):
            for url in SchedulingSection(**row.scheduling).notify:
                session.add(NotificationRow(job_id=row.id, url=url, body=_body(row), next_try=now()))
            row.notify = False


class Notifier:
    """Tells webhooks what is noted for them, a few at a time, beside whoever calls `tick`."""

    def __init__(self, registry: Registry, hosts: Sequence[str]) -> None:
        """Opens nothing yet.

        Args:
            registry: where notifications are.
            hosts: that may be called.
        """
        self._registry = registry
        self._hosts = hosts
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="webhook")
        self._under_way: dict[int, Future[str | None]] = {}

    def tick(self) -> None:
        """Writes down what has come of those under way, and sends those whose time has come; waits for none."""
        note_ended(self._registry)
        for number, sent in list(self._under_way.items()):
            if sent.done():
                del self._under_way[number]
                self._settle(number, sent.result())
        free = 2 * _AT_ONCE - len(self._under_way)
        if free <= 0:
            return
        query = (
            select(NotificationRow.id, NotificationRow.url, NotificationRow.body)
            .where(NotificationRow.next_try <= now(), NotificationRow.id.not_in(self._under_way))
            .order_by(NotificationRow.next_try)
            .limit(free)
        )
        with self._registry.database.reading() as session:
            due = list(session.execute(query))
        for number, url, body in due:
            self._under_way[number] = self._pool.submit(post, url, body, self._hosts)

    def close(self) -> None:
        """Ends it; what was under way is sent again by the next one."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _settle(self, number: int, problem: str | None) -> None:
        with self._registry.database.writing() as session:
            row = session.get(NotificationRow, number)
            if row is None:
                return
            row.tries += 1
            row.problem = problem
            again = problem is not None and row.tries < MOST_TRIES
            row.next_try = now() + timedelta(seconds=delay_after(row.tries)) if again else None


def delay_after(tries: int) -> float:
    """Returns after how many seconds a webhook that did not listen so many times is told again."""
    return SECONDS_BETWEEN_TRIES * 2.0 ** max(0, tries - 1)


def post(url: str, body: dict[str, Any], hosts: Sequence[str]) -> str | None:
    """Sends JSON to a webhook; returns what went wrong, or None."""
    if not is_allowed(url, hosts):
        return "its host is not among cluster.security.webhook_hosts any more"
    data = json.dumps(body, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "yuan-stack"}
    request = urllib.request.Request(url, data=data, headers=headers, method="POST")  # noqa: S310 - http or https only
    try:
        with _OPENER.open(request, timeout=_SECONDS_TO_ANSWER) as reply:
            reply.read(1)
    except urllib.error.HTTPError as error:
        return f"answered {error.code} {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        return str(error) or type(error).__name__
    return None


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """A host that is allowed must not send us to one that is not."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:  # noqa: PLR0917 - as its base has it
        """Follows none."""
        del req, fp, code, msg, headers, newurl


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirection)


def notifications(registry: Registry, job_id: str) -> list[NotificationRow]:
    """Returns what is noted for a job, in the order of its webhooks."""
    query = select(NotificationRow).where(NotificationRow.job_id == job_id).order_by(NotificationRow.id)
    with registry.database.reading() as session:
        return list(session.scalars(query))


def _body(row: JobRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "name": row.name,
        "state": row.state,
        "reason": row.reason,
        "artifact": row.artifact,
        "attempt": row.attempt,
        "labels": SchedulingSection(**row.scheduling).labels,
        "finished": row.finished.isoformat() if row.finished else None,
    }
