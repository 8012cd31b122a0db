"""What a watcher of a job is told: how it stands, and the events of its work from the first one on.

Reads the registry and files, both of which block; whoever sends the replies calls it in a thread, again and again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from yuan_jobs.following import EventReader, LogReader
from yuan_jobs.home import Home
from yuan_jobs.messages import job_message
from yuan_jobs.queries import children, get_job
from yuan_jobs.records import JobRecord
from yuan_jobs.registry import Registry
from yuan_rpc.jobs.v1 import jobs_pb2

_Standing = tuple[str, str, int, str | None]


@dataclass
class Watched:
    """A job, with its steps if it is a pipeline, and what its watcher has been told of them.

    Attributes:
        registry: says how they stand.
        home: where their journals are.
        job_id: which job.
        over: whether everything has ended and been told.
    """

    registry: Registry
    home: Home
    job_id: str
    over: bool = False
    _told: dict[str, _Standing] = field(default_factory=dict[str, _Standing])
    _readers: dict[str, EventReader] = field(default_factory=dict[str, EventReader])

    def look(self) -> list[jobs_pb2.WatchResponse]:
        """Returns what is new. A job's end comes after all of its events, a pipeline's after that of its steps."""
        # How a job stands is read before its journal: what has ended writes no more.
        job = get_job(self.registry, self.job_id)
        steps = children(self.registry, self.job_id)
        replies: list[jobs_pb2.WatchResponse] = []
        for step in steps:
            replies += self._about(step)
        ended = all(self._is_told(step) and step.state.ended for step in steps)
        replies += self._about(job, may_end=ended)
        self.over = ended and self._is_told(job) and job.state.ended
        return replies

    def _about(self, job: JobRecord, *, may_end: bool = True) -> list[jobs_pb2.WatchResponse]:
        replies: list[jobs_pb2.WatchResponse] = []
        if not job.state.ended:
            replies += self._tell(job)
        reader = self._readers.setdefault(job.id, EventReader(self.home, job.id))
        events = reader.read(job.attempt)
        replies += [jobs_pb2.WatchResponse(event_json=event, job_id=job.id, step=job.step) for event in events]
        if job.state.ended and may_end and not events:
            replies += self._tell(job)
        return replies

    def _tell(self, job: JobRecord) -> Iterable[jobs_pb2.WatchResponse]:
        if self._is_told(job):
            return ()
        self._told[job.id] = _standing(job)
        return (jobs_pb2.WatchResponse(job=job_message(job), job_id=job.id, step=job.step),)

    def _is_told(self, job: JobRecord) -> bool:
        return self._told.get(job.id) == _standing(job)


def _standing(job: JobRecord) -> _Standing:
    return job.state.value, job.desired.value, job.attempt, job.reason


@dataclass
class Logged:
    """A job's logs, with those of its steps if it is a pipeline.

    Attributes:
        registry: says which there are, and whether they have ended.
        home: where their logs are.
        job_id: which job.
        over: whether everything has ended and been read.
    """

    registry: Registry
    home: Home
    job_id: str
    over: bool = False
    _readers: dict[str, LogReader] = field(default_factory=dict[str, LogReader])

    def look(self) -> list[jobs_pb2.StreamLogsResponse]:
        """Returns new lines."""
        jobs = [*children(self.registry, self.job_id), get_job(self.registry, self.job_id)]
        replies = [reply for job in jobs for reply in self._lines(job)]
        self.over = not replies and all(job.state.ended for job in jobs)
        return replies

    def _lines(self, job: JobRecord) -> Iterable[jobs_pb2.StreamLogsResponse]:
        prefix = f"{job.step}/" if job.id != self.job_id else ""
        for line in self._readers.setdefault(job.id, LogReader(self.home, job.id)).read():
            yield jobs_pb2.StreamLogsResponse(line=line.text, source=prefix + line.source, attempt=line.attempt)
