"""One attempt of a job: its folders, the work, and how it ends, whatever happens in between."""

import errno
import shutil
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yuan_events import EventSink, Interrupted, Message, TeeSink, WorkFailed, YuanError, one_line
from yuan_jobs.artifacts import ArtifactStore, Publication
from yuan_jobs.context import ArtifactHandle, JobT, Work, WorkContext
from yuan_jobs.home import Home
from yuan_jobs.identity import plain_json
from yuan_jobs.journal import Journal
from yuan_jobs.records import Claim, JobRecord, NewJob
from yuan_jobs.states import JobState
from yuan_jobs.wiring import Output
from yuan_manifest.schema import Cluster, Job, Topology


@dataclass(frozen=True)
class Outcome:
    """How a job ended well.

    Attributes:
        job_id: the job.
        attempt: which attempt of it made the result.
        reused: nothing was done, since an identical job had been done before.
        artifact: what it published, or None where the output is a folder.
        path: the folder with the result.
        summary: what the work reported.
        seconds: how long this call took.
    """

    job_id: str
    attempt: int
    reused: bool
    artifact: ArtifactHandle | None
    path: Path
    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A claimed attempt. `run` leaves the job SUCCEEDED, FAILED or CANCELLED, and no half-made output.

    Attributes:
        home: where its run state and log are.
        store: where its artifact is published.
        claim: the right to run.
        new: what the registry was told of the job.
        output: what it makes.
        inputs: the artifacts it takes, by key path.
        digests: of its other inputs, by name.
        cluster: the stack whose worker runs it; None in the foreground. The work gets it.
        again: what a user does to go on after a failure, said in messages.
        interrupted: what becomes of the job when its work was stopped; None: it is CANCELLED.
    """

    home: Home
    store: ArtifactStore
    claim: Claim
    new: NewJob
    output: Output
    inputs: Mapping[str, ArtifactHandle]
    digests: Mapping[str, str]
    cluster: Cluster | None = None
    again: str = "run it again"
    interrupted: Callable[[Claim, str], None] | None = None

    def run(
        self,
        job: JobT,
        topology: Topology,
        work: Work[JobT],
        sink: EventSink,
        should_stop: Callable[[], bool],
    ) -> Outcome:
        """Does the work and publishes what it made; see `execution.execute`."""
        claim = self.claim
        try:
            folder = self.home.attempt_folder(claim.job_id, claim.attempt)
            folder.mkdir(parents=True, exist_ok=True)
            with Journal(folder / "events.jsonl") as journal:
                both = TeeSink([journal, sink])
                if claim.before is not None:
                    both.emit(Message(_continues(claim, claim.before)))
                context = WorkContext(
                    job=job,
                    topology=topology,
                    inputs=self.inputs,
                    output=self._begin(),
                    run=self.home.run_folder(claim.job_id),
                    sink=both,
                    should_stop=should_stop,
                    job_id=claim.job_id,
                    attempt=claim.attempt,
                    cluster=self.cluster,
                )
                result = work.run(context)
            return self._publish(context.output, plain_json(result.summary))
        except BaseException as error:
            shown = self._failed(error, job)
            if shown is error:
                raise
            raise shown from error

    def _begin(self) -> Path:
        """Returns the empty folder to be filled."""
        if self.output.kind is not None:
            return self.store.begin(self.output.kind, self.output.name, self.claim)
        folder = self._scratch()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _scratch(self) -> Path:
        """Returns the folder in which what is no artifact is prepared."""
        if self.output.path is not None:
            return self.output.sibling(self.claim.job_id)
        return self.home.attempt_folder(self.claim.job_id, self.claim.attempt) / "output"

    def _publish(self, folder: Path, summary: Mapping[str, Any]) -> Outcome:
        claim = self.claim
        if self.output.path is not None:
            self.output.refuse_existing()
            folder.rename(self.output.path)
            summary = {**summary, "path": str(self.output.path)}
            self.store.registry.finish(claim, JobState.SUCCEEDED, result=summary)
            return Outcome(claim.job_id, claim.attempt, False, None, self.output.path, summary)
        if self.output.kind is None:
            self.store.registry.finish(claim, JobState.SUCCEEDED, result=summary)
            return Outcome(claim.job_id, claim.attempt, False, None, folder, summary)
        publication = Publication(
            kind=self.output.kind,
            name=self.output.name,
            claim=claim,
            identity=self.new.identity,
            recipe=self.new.recipe,
            inputs=self.inputs,
            input_digests=self.digests,
            summary=summary,
        )
        artifact = self.store.publish(folder, publication)
        return Outcome(claim.job_id, claim.attempt, False, artifact, artifact.path, summary)

    def _failed(self, error: BaseException, job: Job) -> YuanError:
        """Clears up, tells the registry, and returns the one-line error to raise."""
        claim = self.claim
        if self.output.kind is not None:
            self.store.discard(self.output.kind, self.output.name, claim)
        else:
            shutil.rmtree(self._scratch(), ignore_errors=True)
        shown = self._shown(error, job)
        # Where a later attempt has taken over, or the registry itself is what failed, there is nothing to tell it.
        with suppress(YuanError):
            if not isinstance(shown, Interrupted):
                self.store.registry.finish(claim, JobState.FAILED, reason=one_line(shown))
            elif self.interrupted is not None:
                self.interrupted(claim, one_line(shown))
            else:
                self.store.registry.finish(claim, JobState.CANCELLED, reason=one_line(shown))
        return shown

    def _shown(self, error: BaseException, job: Job) -> YuanError:
        if isinstance(error, YuanError):
            return error
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return Interrupted(f"{job.name}: interrupted; {self.again} to go on")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" ({error.filename})" if error.filename else ""
            return WorkFailed(f"{job.name}: no space left on the disk{where}; make room and {self.again}: it goes on")
        if isinstance(error, ModuleNotFoundError):
            return WorkFailed(f"{job.name}: needs the Python package {error.name}, which is not installed here")
        log = self.home.attempt_folder(self.claim.job_id, self.claim.attempt) / "traceback.txt"
        with suppress(OSError):
            log.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
        return WorkFailed(f"{job.name}: {one_line(error)} (details: {log})")


def _continues(claim: Claim, before: JobRecord) -> str:
    how = f"failed: {before.reason}" if before.state == JobState.FAILED else "was interrupted"
    if before.state == JobState.QUEUED and before.reason:
        how = f"was interrupted: {before.reason}"
    return f"continues run {claim.job_id}, which {how} (attempt {claim.attempt})"
