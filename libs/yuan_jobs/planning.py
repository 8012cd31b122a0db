"""Checks of jobs that are to run together: who makes what who takes, and whether the rest is there."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from yuan_events import InputError
from yuan_jobs.references import ArtifactNotFound, Reference
from yuan_jobs.requests import JobRequest, Request
from yuan_jobs.wiring import artifact_inputs, output_of
from yuan_manifest.schema import Job

if TYPE_CHECKING:  # who only submits needs no database
    from yuan_jobs.artifacts import ArtifactStore


class Part(Protocol):
    """A step of a pipeline, or the only part that another job is."""

    @property
    def name(self) -> str:
        """In the pipeline."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the steps before it."""
        ...

    @property
    def job(self) -> Job:
        """What is run."""
        ...


class _Requested(NamedTuple):
    name: str
    needs: tuple[str, ...]
    job: Job


def parts_of(request: Request) -> list[Part]:
    """Returns the steps of what is submitted, or the only part that it is."""
    if isinstance(request, JobRequest):
        return [_Requested(request.name, (), request.job)]
    return [_Requested(step.name, step.needs, step.request.job) for step in request.steps]


def check_order(steps: Sequence[Part]) -> None:
    """Checks names of artifacts, and that a step needs the steps that make what it takes.

    Raises:
        InputError: if a step takes what another one makes without needing it, or names what cannot be a name.
    """
    for step in steps:
        output_of(step.job)
        for key, (kind, text) in artifact_inputs(step.job).items():
            reference = Reference.parse(text, kind)
            makers = _makers(steps, step, reference)
            if makers and not makers & _all_needs(steps, step):
                raise InputError(
                    f"step {step.name}: inputs.{key} {text} is made by step {min(makers)}: add it to needs"
                )


def check_artifacts(steps: Sequence[Part], store: "ArtifactStore") -> None:
    """Checks that every artifact exists that a step takes and no step makes.

    Raises:
        ArtifactNotFound: if one does not.
    """
    for step in steps:
        for kind, text in artifact_inputs(step.job).values():
            if _makers(steps, step, Reference.parse(text, kind)):
                continue
            try:
                store.find(text, kind)
            except ArtifactNotFound as error:
                if len(steps) == 1:
                    raise
                raise ArtifactNotFound(f"step {step.name}: {error}") from None


def unable(steps: Sequence[Part], nothing: Mapping[str, str]) -> dict[str, str]:
    """Returns the steps that cannot run, since what they take has not been made, with the reason why.

    Args:
        steps: of a pipeline.
        nothing: the steps that ended well without making anything, and why.
    """
    why = dict(nothing)
    for step in _in_order(steps):
        for kind, text in artifact_inputs(step.job).values():
            makers = _makers(steps, step, Reference.parse(text, kind))
            if makers and makers <= why.keys() and step.name not in why:
                why[step.name] = why[min(makers)]
    return {name: reason for name, reason in why.items() if name not in nothing}


def _in_order(steps: Sequence[Part]) -> list[Part]:
    """Returns the steps so that none comes before one that it needs."""
    return sorted(steps, key=lambda step: len(_all_needs(steps, step)))


def _makers(steps: Sequence[Part], step: Part, reference: Reference) -> set[str]:
    """Returns the other steps that make what a step takes; none if it takes a version that exists already.

    A step that itself needs this one comes later: what it makes is the version after the one that is taken here.
    """
    if reference.version is not None:
        return set()
    wanted = (reference.kind, reference.name)
    before = [other for other in steps if other.name != step.name and step.name not in _all_needs(steps, other)]
    outputs = {other.name: output_of(other.job) for other in before}
    return {name for name, output in outputs.items() if (output.kind, output.name) == wanted}


def _all_needs(steps: Sequence[Part], step: Part) -> set[str]:
    """Returns the steps that a step needs, and those that they need."""
    by_name = {other.name: other for other in steps}
    found: set[str] = set()
    waiting = list(step.needs)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(by_name[name].needs)
    return found
