"""The model whose weights a run begins with: found, compared with what is trained, and put where ranks can read it.

Ranks read one layout, the native one, each its own slice by global name. A Hugging Face or Megatron folder is
therefore written once as a native one into the run folder.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from yuan_checkpoint import Checkpoint, open_checkpoint, write_native
from yuan_events import InputError, Progress
from yuan_jobs import WorkContext, digest_of_files
from yuan_jobs.wiring import model_folder
from yuan_manifest.schema import FinetuneJob, FinetuneMethod, Job, TrainingJob
from yuan_model import YuanConfig

START_FOLDER = "start"
"""Below the run folder: what was written there from another layout."""

DIGEST_FILE = "start.sha256"
"""Below the run folder: of the folder that low-rank additions are made to."""

_FREE_FIELDS = frozenset({"initializer_range", "eod_token_id", "attention_reset_at_eod", "max_position_embeddings"})
"""What a run may have otherwise than the model that it begins with: no weight depends on them."""


@dataclass(frozen=True)
class Start:
    """Where first weights come from.

    Attributes:
        source: the opened model.
        name: of it, for messages.
    """

    source: Checkpoint
    name: str

    @property
    def config(self) -> YuanConfig:
        """Of its network."""
        return self.source.config

    @property
    def is_native(self) -> bool:
        """Whether ranks can read it as it is."""
        return self.source.native


def fingerprint(job: Job) -> Mapping[str, str]:
    """Returns the digest of the folder that a training starts from; nothing where it is an artifact or none.

    Raises:
        InputError: if the folder is no whole model.
    """
    folder = model_folder(job)
    return {} if folder is None else {"model": digest_of_files(open_checkpoint(folder).files)}


def find_start(context: WorkContext[TrainingJob]) -> Start | None:
    """Opens the model that a job starts from; None: first weights are drawn.

    Raises:
        InputError: if it is no whole model.
    """
    folder = model_folder(context.job)
    if folder is not None:
        return Start(open_checkpoint(folder), str(folder))
    handle = context.inputs.get("model")
    return None if handle is None else Start(open_checkpoint(handle.path), handle.reference)


def check_same_network(start: Start, config: YuanConfig) -> None:
    """Checks that a model's weights are those of the network that is to be trained.

    Raises:
        InputError: naming every field that differs.
    """
    wanted, found = config.to_dict(), start.config.to_dict()
    # fp32 is also what a model comes to whose files cannot say it, as the original's: then the manifest decides.
    free = _FREE_FIELDS | {"rope_precision"} if start.config.rope_precision == "fp32" else _FREE_FIELDS
    differing = [name for name in wanted if name not in free and wanted[name] != found[name]]
    if differing:
        told = ", ".join(f"{name} {found[name]} (the model section says {wanted[name]})" for name in differing)
        raise InputError(
            f"inputs.model: {start.name} is of another architecture: {told}; make the model section like it"
        )


def native_start(start: Start, context: WorkContext[TrainingJob]) -> Path:
    """Returns a native folder with a model's weights, which it writes where there is none yet.

    Raises:
        Interrupted: if it was asked to stop.
    """
    if start.is_native:
        if isinstance(context.job, FinetuneJob) and context.job.finetune.method == FinetuneMethod.lora:
            check_unchanged(start, context)
        return start.source.path.absolute()
    folder = context.run / START_FOLDER
    if not (folder / "config.json").is_file():  # written last
        shutil.rmtree(folder, ignore_errors=True)
        write_native(folder, start.config, _reported(start, context))
    return folder


def check_unchanged(start: Start, context: WorkContext[TrainingJob]) -> None:
    """Checks that a folder is what it was when the run began: its states hold additions to just those weights.

    Raises:
        InputError: if it is not.
    """
    digest = fingerprint(context.job).get("model")
    if digest is None:  # an artifact, which never changes
        return
    noted = context.run / DIGEST_FILE
    if not noted.is_file():
        noted.write_text(digest, encoding="ascii")
    elif noted.read_text(encoding="ascii") != digest:
        raise InputError(
            f"inputs.model: {start.name} has changed since this run began, whose additions are to what it was; "
            "put that back, or run the job anew with --force"
        )


def _reported(start: Start, context: WorkContext[TrainingJob]) -> Iterator[tuple[str, Tensor]]:
    total = len(start.source.names)
    for done, pair in enumerate(start.source.tensors()):
        context.stop_if_asked()
        context.sink.emit(Progress("read the model", done, total, "tensors", start.name))
        yield pair
    context.sink.emit(Progress("read the model", total, total, "tensors", start.name))
