"""What the function that does a job is given, and what it gives back.

This is the whole of what work knows of jobs: a checked manifest, input artifacts, a folder to fill and somewhere to
report to. It knows no registry, no store and no queue, so a test calls it with folders of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from yuan_events import EventSink, Interrupted

if TYPE_CHECKING:  # the schema loads OmegaConf, which `yuan --help` can do without
    from yuan_jobs.cycles import CycleBook
    from yuan_manifest.schema import Cluster, Job, Topology

JobT = TypeVar("JobT", bound="Job")

UNFINISHED = "unfinished"
"""Folder in a run folder for what only a job that goes on needs."""


@dataclass(frozen=True)
class ArtifactHandle:
    """One published, immutable version of an artifact.

    Attributes:
        kind: `tokenizer`, `dataset`, `model` or `report`.
        name: chosen by the user in a manifest's `outputs`.
        version: counts from 1.
        path: its folder on this machine (files of a remote store are copied there first); read only.
        digest: sha256 hex over the names and hashes of its files: equal content, equal digest.
        metadata: what `artifact.json` says: job, recipe, inputs with versions, files, summary.
    """

    kind: str
    name: str
    version: int
    path: Path
    digest: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def reference(self) -> str:
        """Its full name, `kind/name@version`."""
        return f"{self.kind}/{self.name}@{self.version}"

    @property
    def summary(self) -> Mapping[str, Any]:
        """What the work that made it reported as its result."""
        return self.metadata.get("summary", {})


@dataclass(frozen=True)
class WorkContext(Generic[JobT]):
    """Everything that work gets.

    Attributes:
        job: the resolved manifest.
        topology: the resolved topology (cluster's, job's and overrides merged).
        inputs: artifacts by their key path in the manifest's `inputs`: `tokenizer`, `model`, `dataset`, and
            `datasets[0].name`, `datasets[1].name`… for a blend (see `datasets`).
        output: an empty folder; what is in it when the work returns is what gets published.
        run: a folder that outlives an attempt: training states live here, the next attempt finds them. That of a part
            is its job's. What is in its folder UNFINISHED is removed once the job SUCCEEDED.
        sink: takes events.
        should_stop: true once the user or the system wants the work to end; see `stop_if_asked`.
        job_id: the job's id, for messages and logs.
        attempt: 1 for the first; more where earlier ones failed or were interrupted.
        devices: numbers of the stack's devices that the job has while it runs; none where there is no stack.
        divisible: whether other workers are there to take parts: the work may return `WorkResult.parts` then.
        part: of a part, its name.
        cluster: the stack whose worker runs this, for calls to its other services (`yuan_rpc.connect`); None where
            there is no stack (`yuan run`, tests).
        open_artifact: opens an artifact that is no input, by its reference: lineage, which the inputs fix. Raises
            InputError where it is gone; None in tests that have no store.
        cycle: the teaching requests, for the kinds that take them up and answer them; None in tests that have none.
        cache: a folder of the home for what may be lost and made again; None in tests that have no home.
    """

    job: JobT
    topology: Topology
    inputs: Mapping[str, ArtifactHandle]
    output: Path
    run: Path
    sink: EventSink
    should_stop: Callable[[], bool] = lambda: False
    job_id: str = ""
    attempt: int = 1
    devices: tuple[int, ...] = ()
    divisible: bool = False
    part: str = ""
    cluster: Cluster | None = None
    open_artifact: Callable[[str], ArtifactHandle] | None = None
    cycle: CycleBook | None = None
    cache: Path | None = None

    @property
    def datasets(self) -> tuple[ArtifactHandle, ...]:
        """The artifacts of `inputs.datasets`, in the manifest's order."""
        found: list[ArtifactHandle] = []
        while (key := f"datasets[{len(found)}].name") in self.inputs:
            found.append(self.inputs[key])
        return tuple(found)

    def stop_if_asked(self) -> None:
        """Ends the work here if it is wanted to end; call it where everything worth keeping is on disk.

        Raises:
            Interrupted: if `should_stop()`.
        """
        if self.should_stop():
            raise Interrupted(f"{self.job.name}: interrupted; run it again to go on")


@dataclass(frozen=True)
class WorkResult:
    """What work returns once its output folder is complete.

    Attributes:
        summary: JSON-able facts worth keeping (losses, counts); stored with the job and in `artifact.json`.
        parts: names of parts that other workers are to do (`Work.part`) before `run` is called again; none: it is done.
            Only where the context is divisible.
        nothing: why there is nothing to make, in a line: the job SUCCEEDED and published nothing, and the steps of its
            pipeline that take what it would have made are skipped. Empty: the output folder is what it made.
    """

    summary: Mapping[str, Any] = field(default_factory=dict[str, Any])
    parts: Sequence[str] = ()
    nothing: str = ""


def no_fingerprint(job: Job) -> Mapping[str, str]:
    """The fingerprint of work whose only inputs are artifacts."""
    del job
    return {}


@dataclass(frozen=True)
class Work(Generic[JobT]):
    """How one kind of job is done: an entry of a service's table.

    Attributes:
        run: does it.
        fingerprint: digests of the inputs that are not artifacts, by name (`{"text": sha256}`): together with the
            recipe and the versions of the artifacts they make the job's identity, so that changed text is a new
            job. Called before `run`; raises InputError for inputs that are missing or empty. `digest_of_files`
            makes such a digest.
        part: does a part that `run` named, on any worker, maybe twice at once after a loss; what it makes for `run` it
            puts into the job's run folder, whole or not at all. None: the work has no parts.
    """

    run: Callable[[WorkContext[JobT]], WorkResult]
    fingerprint: Callable[[JobT], Mapping[str, str]] = no_fingerprint
    part: Callable[[WorkContext[JobT]], WorkResult] | None = None
