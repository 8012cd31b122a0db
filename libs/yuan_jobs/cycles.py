"""A cycle of co-training in the registry: which requests it takes up, and that each is answered once.

A cycle is named by the job that gathered it. A request belongs to one cycle at a time: what a cycle took that ended
without an answer is taken by the next one, and an answer of a cycle that has it no more changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from yuan_jobs.identity import digest_of
from yuan_jobs.models import JobRow, TeachingRequestRow
from yuan_jobs.records import Claim
from yuan_jobs.registry import Registry, StaleAttemptError, now
from yuan_jobs.states import ACTIVE, JobState
from yuan_jobs.teaching import RequestState, TeachingRequest
from yuan_jobs.teaching_registry import note, record_of
from yuan_manifest.schema import Job, Kind


@dataclass(frozen=True)
class Said:
    """What a model says to an example of a request.

    Attributes:
        input: of the example.
        wanted: its output.
        before: what the old model wrote; None: it was not asked.
        now: what the new model wrote; None: it was not asked.
        right: whether that is what is wanted.
        held_out: whether the example was kept from the training.
    """

    input: str
    wanted: str
    before: str | None
    now: str | None
    right: bool
    held_out: bool


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        published: whether the model that learned it was published.
        model: that model, `model/NAME@VERSION`; else the one that stays.
        why: why it was not published; empty: it was.
        changelog: the report that says all, `report/NAME@VERSION`.
        examples: what the model that was trained says to the request's own examples.
    """

    published: bool
    model: str
    why: str
    changelog: str
    examples: Sequence[Said] = field(default_factory=tuple[Said, ...])

    def plain(self) -> dict[str, Any]:
        """Returns it as JSON's types."""
        examples = [
            {
                "input": one.input,
                "wanted": one.wanted,
                "before": one.before,
                "now": one.now,
                "right": one.right,
                "held_out": one.held_out,
            }
            for one in self.examples
        ]
        return {
            "published": self.published,
            "model": self.model,
            "why": self.why,
            "changelog": self.changelog,
            "examples": examples,
        }


@dataclass(frozen=True)
class CycleBook:
    """What the work of a cycle's jobs may do with requests; every write is refused once its attempt is an old one.

    Attributes:
        registry: where the requests are.
        claim: the attempt that is at work.
    """

    registry: Registry
    claim: Claim

    def gather(self) -> list[TeachingRequest]:
        """Takes up all requests that wait for a cycle, and returns those of this one, in the order of their ids.

        Doing it again, as a later attempt does, returns the same and what was accepted meanwhile.

        Raises:
            StaleAttemptError: if another attempt of the job has begun; nothing is taken then.
        """
        with self.registry.database.writing() as session:
            self._check(session)
            taken: list[TeachingRequest] = []
            for row in _waiting(session, self.claim.job_id):
                if row.state != RequestState.IN_CYCLE or row.cycle != self.claim.job_id:
                    row.state, row.cycle, row.gathered = RequestState.IN_CYCLE, self.claim.job_id, now()
                    note(row, self.claim.job_id, "gathered")
                taken.append(record_of(row))
            session.flush()
            return taken

    def answer(self, request_id: str, cycle: str, answer: Answer) -> bool:
        """Answers a request of a cycle.

        Args:
            request_id: the request.
            cycle: the job that gathered it for this answer.
            answer: what became of it.

        Returns:
            Whether this answered it: not if it was answered before, or another cycle has it.

        Raises:
            StaleAttemptError: if another attempt of the job has begun; nothing is answered then.
        """
        with self.registry.database.writing() as session:
            self._check(session)
            row = session.get(TeachingRequestRow, request_id)
            if row is None or row.state != RequestState.IN_CYCLE or row.cycle != cycle:
                return False
            row.state, row.answer, row.answered = RequestState.ANSWERED, answer.plain(), now()
            note(row, self.claim.job_id, "answered", answer.why or answer.model)
            session.flush()
            return True

    def _check(self, session: Session) -> None:
        row = session.get(JobRow, self.claim.job_id)
        if row is None or row.attempt != self.claim.attempt or row.state != JobState.RUNNING:
            raise StaleAttemptError(
                f"job {self.claim.job_id}: attempt {self.claim.attempt} is not the current one any more"
            )


def fingerprint_of_requests(job: Job, registry: Registry, job_id: str = "") -> dict[str, str]:
    """Returns what of the requests makes a job another one: of one that gathers them, which wait; else nothing."""
    return {"waiting": digest_of_waiting(registry, job_id)} if job.kind == Kind.gather else {}


def digest_of_waiting(registry: Registry, job_id: str = "") -> str:
    """Returns the sha256 (hex) of which requests, in which revisions, a cycle would take up now.

    Args:
        registry: where.
        job_id: the job that would gather them; empty: one that is not there yet.
    """
    with registry.database.reading() as session:
        return digest_of([[row.id, row.revision] for row in _waiting(session, job_id)])


def _waiting(session: Session, job_id: str) -> list[TeachingRequestRow]:
    """Returns the requests that a gathering job takes: accepted ones, its own, and those that an ended cycle left."""
    gatherer, pipeline = aliased(JobRow), aliased(JobRow)
    query = (
        select(TeachingRequestRow, gatherer.state, gatherer.queue, pipeline.state)
        .outerjoin(gatherer, gatherer.id == TeachingRequestRow.cycle)
        .outerjoin(pipeline, pipeline.id == gatherer.parent_id)
        .where(TeachingRequestRow.state.in_((RequestState.ACCEPTED, RequestState.IN_CYCLE)))
        .order_by(TeachingRequestRow.id)
    )
    found: list[TeachingRequestRow] = []
    for row, state, queue, whole in session.execute(query):
        # One of the foreground (it has no queue) that looks at work is one that died, or that waits beside this stack
        # for nobody: its answers count only while the requests are its own.
        at_work = (whole or (state if queue is not None else None)) in ACTIVE
        if row.state == RequestState.ACCEPTED or row.cycle == job_id or not at_work:
            found.append(row)
    return found
