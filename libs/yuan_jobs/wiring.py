"""What a job takes and makes, read from its manifest: which artifacts go in, which artifact or folder comes out."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from yuan_events import InputError
from yuan_jobs.placing import placed
from yuan_jobs.references import ArtifactKind, check_name
from yuan_manifest.schema import DeployJob, Job, JudgeJob, PlanJob, TokenizerInputs, TokenizerJob, TrainingJob

# An absolute path, one below a user's own folder, or `s3://…`, `python-stdlib:`.
_BEGINS_ELSEWHERE = re.compile(r"[/~]|[A-Za-z][A-Za-z0-9+.-]+:")


@dataclass(frozen=True)
class Output:
    """What a job makes: an artifact of a kind and name, or a new folder, or nothing (`deploy`).

    Attributes:
        kind: the artifact's kind; None where it makes none.
        name: the artifact's name; empty where it makes none.
        path: the folder, absolute; None where it makes none.
    """

    kind: ArtifactKind | None = None
    name: str = ""
    path: Path | None = None

    def refuse_existing(self, run: Path | None = None) -> None:
        """Checks that an output folder is a new one.

        Args:
            run: the run folder of the job that makes it, which may have put it there already; None: it has none yet.

        Raises:
            InputError: if there is something of that name.
        """
        if self.path is None or (run is not None and placed(self.path, run) is not None):
            return
        if os.path.lexists(self.path):
            raise InputError(f"outputs.path {self.path}: exists already; name a new folder, or remove that one")

    def sibling(self, job_id: str, attempt: int) -> Path:
        """Returns the folder beside an output folder in which an attempt of a job prepares it.

        Raises:
            ValueError: if the output is an artifact.
        """
        if self.path is None:
            raise ValueError("an artifact is prepared in the store")
        return self.path.with_name(f".{self.path.name}.{job_id}.attempt-{attempt}")


def artifact_inputs(job: Job) -> dict[str, tuple[ArtifactKind, str]]:
    """Returns kind and reference of every artifact that a job takes, by key path below `inputs`."""
    inputs = getattr(job, "inputs", None)
    found: dict[str, tuple[ArtifactKind, str]] = {}
    for kind in ArtifactKind:
        reference = getattr(inputs, kind, None)
        if isinstance(reference, str) and not (kind == ArtifactKind.model and model_folder(job)):
            found[kind.value] = (kind, reference)
    adapter: str | None = getattr(inputs, "adapter", None)
    if adapter is not None and "/" not in adapter:
        found["adapter"] = (ArtifactKind.model, adapter)
    if isinstance(job, DeployJob):
        adapters = job.inputs.adapters.items()
        found |= {f"adapters.{name}": (ArtifactKind.model, artifact) for name, artifact in adapters}
    if isinstance(job, JudgeJob):
        found["baseline"] = (ArtifactKind.report, job.inputs.baseline)
    for index, dataset in enumerate(getattr(inputs, "datasets", ())):
        found[f"datasets[{index}].name"] = (ArtifactKind.dataset, str(dataset.name))
    if isinstance(job, TokenizerJob):
        for key, names in (("tokenizers", job.inputs.tokenizers), ("compare", job.inputs.compare)):
            named = {f"{key}[{index}]": name for index, name in enumerate(names) if "/" not in name}
            found |= {path: (ArtifactKind.tokenizer, name) for path, name in named.items()}
    return found


def model_folder(job: Job) -> Path | None:
    """Returns the folder that a training starts from, where `inputs.model` is a path (it has a `/`), no artifact."""
    model = job.inputs.model if isinstance(job, TrainingJob) else None
    return Path(model).expanduser() if model is not None and "/" in model else None


def output_of(job: Job) -> Output:
    """Returns what a job makes.

    Raises:
        InputError: if the artifact's name cannot be one; for a plan, which is only computed.
        ValueError: for a pipeline, which is only an order of other jobs.
    """
    outputs = getattr(job, "outputs", None)
    for kind in ArtifactKind:
        name = getattr(outputs, kind, None)
        if isinstance(name, str):
            check_name(name)
            return Output(kind=kind, name=name)
    path = getattr(outputs, "path", None)
    if isinstance(path, str):
        return Output(path=Path(path).expanduser().absolute())
    if isinstance(job, DeployJob):
        return Output()
    if isinstance(job, PlanJob):
        raise InputError(f"kind: {job.name} is a plan, which is only computed; yuan plan MANIFEST does that")
    raise ValueError(f"a job of kind {job.kind} makes no artifact")


def tokenizer_paths(inputs: TokenizerInputs) -> dict[str, str]:
    """Returns the paths of models that a tokenizer is made of or compared with, by key path below `inputs`."""
    lists = (("tokenizers", inputs.tokenizers), ("compare", inputs.compare))
    named = {f"{key}[{index}]": name for key, names in lists for index, name in enumerate(names) if "/" in name}
    return named if inputs.sentencepiece is None else {"sentencepiece": inputs.sentencepiece, **named}


def has_relative_paths(job: Job) -> bool:
    """Says whether what a job reads or writes depends on the folder from which it was submitted."""
    inputs, outputs = getattr(job, "inputs", None), getattr(job, "outputs", None)
    folder = job.inputs.model if isinstance(job, TrainingJob) and model_folder(job) else None
    own = (getattr(inputs, "path", None), getattr(inputs, "data", None), getattr(outputs, "path", None))
    folders = (folder, _adapter_folder(job), *own)
    others = tokenizer_paths(job.inputs).values() if isinstance(job, TokenizerJob) else ()
    words = job.tokenizer.added_words if isinstance(job, TokenizerJob) else ()
    listed = [file for stage in getattr(job, "cleaning", ()) for file in stage.get("files") or ()]
    named = (*getattr(inputs, "text", ()), *folders, *others, *words, *listed)
    return any(isinstance(path, str) and not _BEGINS_ELSEWHERE.match(path) for path in named)


def makes_one_artifact_of_artifacts(job: Job) -> bool:
    """Says whether a job only turns published artifacts into another one: the same inputs, the same result.

    Not so for text and folders, which change without the registry's knowledge, and for a deployment, which another
    one may have replaced since.
    """
    inputs = getattr(job, "inputs", None)
    outside = (
        any(getattr(inputs, name, None) for name in ("text", "path", "data", "sentencepiece"))
        or model_folder(job) is not None
    )
    outside = outside or _adapter_folder(job) is not None
    return bool(artifact_inputs(job)) and not outside and output_of(job).kind is not None


def _adapter_folder(job: Job) -> str | None:
    adapter: str | None = getattr(getattr(job, "inputs", None), "adapter", None)
    return adapter if adapter is not None and "/" in adapter else None
