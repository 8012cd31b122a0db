"""One attempt of a job: its folders, the work, and how it ends, whatever happens in between."""

import errno
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yuan_events import AttemptLost, EventSink, Interrupted, Message, TeeSink, WorkFailed, YuanError, one_line
from yuan_jobs.artifacts import ArtifactStore, Publication
from yuan_jobs.context import UNFINISHED, ArtifactHandle, JobT, Work, WorkContext
from yuan_jobs.cycles import CycleBook
from yuan_jobs.database import RegistryAway
from yuan_jobs.home import Home
from yuan_jobs.identity import plain_json
from yuan_jobs.insisting import SECONDS_BETWEEN_TRIES, insist
from yuan_jobs.journal import Journal
from yuan_jobs.placing import place, placed
from yuan_jobs.records import Claim, JobRecord, NewJob
from yuan_jobs.registry import StaleAttemptError
from yuan_jobs.states import NOTHING, JobState
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
        nothing: why there was nothing to make; empty: something was made.
    """

    job_id: str
    attempt: int
    reused: bool
    artifact: ArtifactHandle | None
    path: Path
    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    nothing: str = ""


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
        lost: what becomes of the job when its work broke down by no fault of its own; None: it is FAILED.
        divisible: whether the work may hand out parts.
        hand_out: puts the parts on the queue that the work named.
        part: the name of the part that this is an attempt of; empty: of a whole job.
        run_folder: of the job that it is a part of; None: the job's own.
        keep_telling: asked whether to tell the registry again how the attempt ended, where it did not listen.
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
    lost: Callable[[Claim, str], None] | None = None
    divisible: bool = False
    hand_out: Callable[[Claim, Sequence[str]], None] | None = None
    part: str = ""
    run_folder: Path | None = None
    keep_telling: Callable[[], bool] = lambda: False

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
            if (done := self._done_before()) is not None:
                return done
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
                    run=self.run_folder or self.home.run_folder(claim.job_id),
                    sink=both,
                    should_stop=should_stop,
                    job_id=claim.job_id,
                    attempt=claim.attempt,
                    devices=claim.devices,
                    divisible=self.divisible,
                    part=self.part,
                    cluster=self.cluster,
                    open_artifact=self.store.open_artifact,
                    cycle=CycleBook(self.store.registry, claim),
                    cache=self.home.path / "cache",
                )
                result = work.run(context) if work.part is None or not self.part else work.part(context)
            if result.parts:
                return self._hand_out(context.output, result.parts)
            if result.nothing:
                outcome = self._leave(context.output, plain_json(result.summary), result.nothing)
            else:
                outcome = self._publish(context.output, plain_json(result.summary))
            if not self.part:
                shutil.rmtree(context.run / UNFINISHED, ignore_errors=True)
            return outcome
        except BaseException as error:
            shown = self._failed(error, job)
            if shown is error:
                raise
            raise shown from error

    def _begin(self) -> Path:
        """Returns the empty folder to be filled."""
        if self.output.kind is not None:
            return self.store.begin(self.output.kind, self.output.name, self.claim)
        folder = self._scratch(self.claim.attempt)
        for number in range(1, self.claim.attempt + 1):
            shutil.rmtree(self._scratch(number), ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _done_before(self) -> Outcome | None:
        """Ends the job where an earlier attempt has put its folder in place and died before it could say so."""
        path = self.output.path
        if path is None or (summary := placed(path, self.home.run_folder(self.claim.job_id))) is None:
            return None
        self.store.registry.finish(self.claim, JobState.SUCCEEDED, result=summary)
        return Outcome(self.claim.job_id, self.claim.attempt, False, None, path, summary)

    def _scratch(self, attempt: int) -> Path:
        """Returns the folder in which an attempt prepares what is no artifact."""
        if self.output.path is not None:
            return self.output.sibling(self.claim.job_id, attempt)
        return self.home.attempt_folder(self.claim.job_id, attempt) / "output"

    def _hand_out(self, folder: Path, parts: Sequence[str]) -> Outcome:
        """Leaves the job to its parts; it is run again when they are done."""
        if self.hand_out is None:
            raise ValueError("this work may not hand out parts")
        self._clear_up()
        self.hand_out(self.claim, parts)
        return Outcome(self.claim.job_id, self.claim.attempt, False, None, folder)

    def _leave(self, folder: Path, summary: Mapping[str, Any], why: str) -> Outcome:
        """Ends the job well with nothing made."""
        claim = self.claim
        self._clear_up()
        told = {**summary, NOTHING: why}
        self.store.registry.finish(claim, JobState.SUCCEEDED, reason=why, result=told)
        return Outcome(claim.job_id, claim.attempt, False, None, folder, told, nothing=why)

    def _publish(self, folder: Path, summary: Mapping[str, Any]) -> Outcome:
        claim = self.claim
        if (path := self.output.path) is not None:
            result = {**summary, "path": str(path)}

            def put() -> None:
                if placed(path, self.home.run_folder(claim.job_id)) is not None:
                    return  # by a try of which the registry could not say how it ended
                self.output.refuse_existing()
                place(folder, path, self.home.run_folder(claim.job_id), result)

            self._finish(result, put)
            return Outcome(claim.job_id, claim.attempt, False, None, path, result)
        if self.output.kind is None:
            self._finish(summary)
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
        artifact = self.store.publish(folder, publication, keep_on=self.keep_telling)
        return Outcome(claim.job_id, claim.attempt, False, artifact, artifact.path, summary)

    def _finish(self, result: Mapping[str, Any], effect: Callable[[], None] | None = None) -> None:
        """Ends the job, and has it so; where the registry is away until it is back."""
        registry, claim = self.store.registry, self.claim

        def finish() -> None:
            try:
                registry.finish(claim, JobState.SUCCEEDED, result=result, effect=effect)
            except StaleAttemptError:
                job = registry.job(claim.job_id)
                if job is None or (job.attempt, job.state) != (claim.attempt, JobState.SUCCEEDED):
                    raise

        insist(finish, self.keep_telling)

    def _clear_up(self) -> None:
        """Removes what the attempt made; never fails."""
        if self.output.kind is not None:
            self.store.discard(self.output.kind, self.output.name, self.claim)
        else:
            shutil.rmtree(self._scratch(self.claim.attempt), ignore_errors=True)

    def _failed(self, error: BaseException, job: Job) -> YuanError:
        """Clears up, tells the registry, and returns the one-line error to raise."""
        claim = self.claim
        away = isinstance(error, RegistryAway)
        if not away:  # else it may have been published in the moment in which the registry went
            self._clear_up()
        shown = self._shown(error, job)
        reason = one_line(shown)
        finish = self.store.registry.finish
        if (away or isinstance(shown, AttemptLost)) and (give_back := self.lost) is not None:
            tell_registry(lambda: give_back(claim, reason), self.keep_telling)
        elif not isinstance(shown, Interrupted):
            tell_registry(lambda: finish(claim, JobState.FAILED, reason=reason), self.keep_telling)
        elif (settle := self.interrupted) is not None:
            tell_registry(lambda: settle(claim, reason), self.keep_telling)
        else:
            tell_registry(lambda: finish(claim, JobState.CANCELLED, reason=reason), self.keep_telling)
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


def tell_registry(tell: Callable[[], None], keep_telling: Callable[[], bool]) -> None:
    """Tells the registry how an attempt ended, again and again where it cannot write it down: its disk may be full too.

    Args:
        tell: writes it; refused where a later attempt has taken over, which ends this.
        keep_telling: asked after each try that failed.
    """
    while True:
        try:
            tell()
        except StaleAttemptError:
            return
        except YuanError:
            if not keep_telling():
                return
            time.sleep(SECONDS_BETWEEN_TRIES)
        else:
            return


def _continues(claim: Claim, before: JobRecord) -> str:
    how = f"failed: {before.reason}" if before.state == JobState.FAILED else "was interrupted"
    if before.state == JobState.QUEUED and before.reason and before.reason.endswith("parts are done"):
        return f"goes on with run {claim.job_id}: {before.reason} (attempt {claim.attempt})"
    if before.state == JobState.QUEUED and before.reason:
        how = f"was interrupted: {before.reason}"
    return f"continues run {claim.job_id}, which {how} (attempt {claim.attempt})"
