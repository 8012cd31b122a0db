"""Teaching requests in the registry: filed, edited, reviewed, listed. Every function is one transaction.

How a cycle takes them up and answers them is in `cycles.py`. Who may do what is the server's business; here it is only
written down who did.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from yuan_events import InputError
from yuan_jobs.models import TeachingRequestRow
from yuan_jobs.registry import Registry, new_job_id, now
from yuan_jobs.teaching import (
    EDITABLE,
    LONGEST_WHY,
    OPEN,
    NewRequest,
    RequestState,
    TeachingRequest,
    request_of_plain,
)
from yuan_manifest.values import shortened

_PREFIX = "request"
_TRIES = 5
_MOST_NAMED = 4


class NoSuchRequest(InputError):
    """No request has that id.

    Attributes:
        request_id: what was looked for.
    """

    def __init__(self, request_id: str) -> None:
        told = shortened(request_id)
        super().__init__(f"request {told} does not exist; `yuan request list` lists those that do")
        self.request_id = request_id


class SameRequest(InputError):
    """The same is asked for already.

    Attributes:
        request_id: the request that asks for it.
    """

    def __init__(self, row: TeachingRequestRow) -> None:
        state = RequestState(row.state)
        super().__init__(f"request: the same is asked for by {row.id} of {row.asked['author']}, which is {told(state)}")
        self.request_id = row.id


class WrongRequestState(InputError):
    """What is wanted of a request does not go with where it stands."""


def told(state: RequestState) -> str:
    """Returns a state as a user reads it."""
    return "in a cycle" if state == RequestState.IN_CYCLE else state.value.lower()


def file_request(registry: Registry, asked: NewRequest, who: str) -> TeachingRequest:
    """Files a request.

    Args:
        registry: where.
        asked: what is asked for.
        who: files it.

    Raises:
        SameRequest: if the same is filed, accepted or in a cycle.
    """
    for remaining in reversed(range(_TRIES)):
        try:
            with registry.database.writing() as session:
                _refuse_same(session, asked)
                moment = now()
                row = TeachingRequestRow(
                    id=new_job_id(_PREFIX, _PREFIX),
                    state=RequestState.FILED,
                    revision=1,
                    asked=asked.plain(),
                    digest=asked.digest,
                    filed_by=who,
                    filed=moment,
                    history=[],
                )
                note(row, who, "filed")
                session.add(row)
                session.flush()
                return record_of(row)
        except IntegrityError:  # another one filed the same in this moment, or the id was taken
            if not remaining:
                raise
    raise AssertionError("unreachable")


def edit_request(registry: Registry, request_id: str, asked: NewRequest, who: str) -> TeachingRequest:
    """Puts another text in place of a request's; a review that it had counts no more.

    Raises:
        NoSuchRequest, InputError: as `find_request`.
        WrongRequestState: if it is in a cycle or answered, or the text is the one that it has.
        SameRequest: if another request asks for the same.
    """
    found = find_request(registry, request_id)
    with registry.database.writing() as session:
        row = session.get_one(TeachingRequestRow, found.id)
        _refuse_unless_editable(row, "edited; file another one")
        if row.asked == asked.plain():
            raise WrongRequestState(f"request {row.id}: that is its text already; nothing has changed")
        _refuse_same(session, asked, besides=row.id)
        row.asked, row.digest, row.revision = asked.plain(), asked.digest, row.revision + 1
        row.state, row.reviewer, row.reviewed, row.why = RequestState.FILED, "", None, ""
        note(row, who, "edited")
        session.flush()
        return record_of(row)


def review_request(
    registry: Registry, request_id: str, *, accept: bool, why: str, who: str, revision: int
) -> TeachingRequest:
    """Accepts or rejects a request.

    Args:
        registry: where.
        request_id: the request.
        accept: or reject.
        why: for the author to read.
        who: decides.
        revision: of the text that was read; it must be the newest.

    Raises:
        NoSuchRequest, InputError: as `find_request`; if there is no reason.
        WrongRequestState: if it is in a cycle or answered, was edited meanwhile, or is decided so already.
    """
    why = why.strip()
    if not why:
        raise InputError("request: why: missing; say why it is accepted or rejected")
    if len(why) > LONGEST_WHY:
        raise InputError(f"request: why: is {len(why)} characters long; expected {LONGEST_WHY} at most")
    state = RequestState.ACCEPTED if accept else RequestState.REJECTED
    found = find_request(registry, request_id)
    with registry.database.writing() as session:
        row = session.get_one(TeachingRequestRow, found.id)
        _refuse_unless_editable(row, "reviewed")
        if row.revision != revision:
            raise WrongRequestState(
                f"request {row.id}: was edited since (revision {row.revision}, not {revision}); read it again"
            )
        if row.state == state:
            raise WrongRequestState(f"request {row.id}: is {told(state)} already, by {row.reviewer}")
        if accept:
            _refuse_same(session, request_of_plain(row.asked), besides=row.id)
        row.state, row.reviewer, row.reviewed, row.why = state, who, now(), why
        note(row, who, state.value.lower(), why)
        session.flush()
        return record_of(row)


def find_request(registry: Registry, text: str) -> TeachingRequest:
    """Returns the request of an id, or of the unique beginning of one.

    Raises:
        NoSuchRequest: if there is none.
        InputError: if several begin so, or nothing is given.
    """
    if not text:
        raise InputError("no request is named; give its id, or the beginning of it")
    beginnings = (text, f"{_PREFIX}-{text}")
    with registry.database.reading() as session:
        row = session.get(TeachingRequestRow, text)
        if row is not None:
            return record_of(row)
        query = select(TeachingRequestRow)
        rows: list[TeachingRequestRow] = []
        for beginning in beginnings:
            found = query.where(TeachingRequestRow.id.startswith(beginning, autoescape=True))
            rows = list(session.scalars(found.order_by(TeachingRequestRow.filed.desc()).limit(_MOST_NAMED)))
            if rows:
                break
        if len(rows) > 1:
            named = ", ".join(one.id for one in rows)
            raise InputError(f"request {shortened(text)}: several begin so: {named}; write more of it")
        if not rows:
            raise NoSuchRequest(text)
        return record_of(rows[0])


def list_requests(
    registry: Registry, states: Sequence[RequestState] = (), *, limit: int = 1000, before: str = ""
) -> list[TeachingRequest]:
    """Returns requests, newest first.

    Args:
        registry: where.
        states: only these; none: all.
        limit: at most so many.
        before: only those older than the request of this id, which is the last one of the page before.
    """
    query = select(TeachingRequestRow).order_by(TeachingRequestRow.filed.desc(), TeachingRequestRow.id.desc())
    if states:
        query = query.where(TeachingRequestRow.state.in_(states))
    with registry.database.reading() as session:
        if before:
            last = session.get(TeachingRequestRow, before)
            if last is None:
                raise NoSuchRequest(before)
            older = (TeachingRequestRow.filed < last.filed) | (
                (TeachingRequestRow.filed == last.filed) & (TeachingRequestRow.id < last.id)
            )
            query = query.where(older)
        return [record_of(row) for row in session.scalars(query.limit(limit))]


def note(row: TeachingRequestRow, who: str, what: str, why: str = "") -> None:
    """Writes down in a request's history what happens to it now."""
    entry: dict[str, Any] = {"when": now().isoformat(), "who": who, "what": what, "revision": row.revision}
    row.history = [*row.history, entry | ({"why": why} if why else {})]


def record_of(row: TeachingRequestRow) -> TeachingRequest:
    """Returns a row as a value."""
    return TeachingRequest(
        id=row.id,
        state=RequestState(row.state),
        revision=row.revision,
        asked=request_of_plain(row.asked),
        filed_by=row.filed_by,
        filed=row.filed,
        reviewer=row.reviewer or "",
        reviewed=row.reviewed,
        why=row.why or "",
        cycle=row.cycle or "",
        gathered=row.gathered,
        answer=row.answer or {},
        answered=row.answered,
        history=tuple(row.history),
    )


def _refuse_unless_editable(row: TeachingRequestRow, what: str) -> None:
    state = RequestState(row.state)
    if state not in EDITABLE:
        where = f" ({row.cycle})" if state == RequestState.IN_CYCLE else ""
        raise WrongRequestState(f"request {row.id}: is {told(state)}{where} and cannot be {what}")


def _refuse_same(session: Session, asked: NewRequest, besides: str = "") -> None:
    query = select(TeachingRequestRow).where(
        TeachingRequestRow.digest == asked.digest,
        TeachingRequestRow.state.in_(OPEN),
        TeachingRequestRow.id != besides,
    )
    if (same := session.scalar(query.limit(1))) is not None:
        raise SameRequest(same)
