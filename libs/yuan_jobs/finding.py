"""A job by what a user types: its id, or as much of its beginning as no other job has."""

import difflib

from sqlalchemy import select

from yuan_events import InputError
from yuan_jobs.control import JobNotFound
from yuan_jobs.models import JobRow
from yuan_jobs.records import JobRecord
from yuan_jobs.registry import Registry

_NEAR_AMONG = 2000
_MOST_NAMED = 4


class NoSuchJob(JobNotFound):
    """No job has an id that begins so; the message has the nearest ones.

    Attributes:
        job_id: what was looked for.
    """

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id


def find_job(registry: Registry, text: str) -> JobRecord:
    """Returns the job of an id or of the unique beginning of one.

    Raises:
        NoSuchJob: if there is none.
        InputError: if several begin so, or nothing is given.
    """
    if not text:
        raise InputError("no job is named; give its id, or the beginning of it")
    found = registry.job(text)
    if found is not None:
        return found
    ids = _beginning_with(registry, text)
    if len(ids) > 1:
        named = ", ".join(ids[:_MOST_NAMED]) + (", …" if len(ids) > _MOST_NAMED else "")
        raise InputError(f"job {text}: several begin so: {named}; write more of it")
    found = registry.job(ids[0]) if ids else None
    if found is None:
        raise NoSuchJob(text, f"job {text} does not exist; {_mend(registry, text)}")
    return found


def _beginning_with(registry: Registry, text: str) -> list[str]:
    query = select(JobRow.id).where(JobRow.id.startswith(text, autoescape=True))
    with registry.database.reading() as session:
        return list(session.scalars(query.order_by(JobRow.created.desc()).limit(_MOST_NAMED + 1)))


def _mend(registry: Registry, text: str) -> str:
    query = select(JobRow.id).order_by(JobRow.created.desc()).limit(_NEAR_AMONG)
    with registry.database.reading() as session:
        ids = list(session.scalars(query))
    if not ids:
        return "none has been submitted here yet; yuan submit MANIFEST does that"
    near = difflib.get_close_matches(text, ids, n=3, cutoff=0.6)
    if not near:
        # The digits at the end are most of an id: a name that is nearly right is near none of them.
        names = {job_id.rpartition("-")[0]: job_id for job_id in reversed(ids)}
        near = [names[name] for name in difflib.get_close_matches(text.rpartition("-")[0] or text, list(names), n=2)]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}`yuan jobs --all` lists them"
