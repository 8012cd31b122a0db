"""Training states as checkpoints to read: the fp32 master weights, without the optimizer's moments.

What a training state is stands in `training_state`. One of low-rank additions has no weights of its own: it is an
adapter to the model that the run started from (`adapters`).
"""

from pathlib import Path
from typing import Any, cast

from yuan_checkpoint.checkpoint import Checkpoint, Held, Origin
from yuan_checkpoint.description import Network
from yuan_checkpoint.entries import CheckpointError
from yuan_checkpoint.native import native_tensors
from yuan_checkpoint.safetensors_files import read_header
from yuan_checkpoint.training_state import STATE_FILE, TrainingStateError, finished_states, open_state, state_file_of
from yuan_model import YuanConfig

_MASTER = "master/"
_MOMENTS = ("exp_avg/", "exp_avg_sq/")


def is_training_state(folder: Path) -> bool:
    """Says whether a folder is a training state, or holds some (`step-…`)."""
    return (folder / STATE_FILE).is_file() or bool(finished_states(folder))


def open_training_state(path: Path, *, strict: bool = True) -> Checkpoint:
    """Opens a training state, or the newest of a run's `checkpoints`.

    Raises:
        CheckpointError: if it is not whole, or does not say which network it is of.
    """
    folder = path if (path / STATE_FILE).is_file() else finished_states(path)[0]
    try:
        state = open_state(folder)
    except TrainingStateError as error:
        raise CheckpointError(str(error)) from error
    metadata = state.metadata
    if metadata.get("lora") is not None:
        raise CheckpointError(
            f"{folder}: holds low-rank additions alone; convert the model that its run makes, or merge an adapter with "
            "--adapter"
        )
    network = Network(_config(folder, metadata.get("model")))
    for name, record in state.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != record.size:
            raise CheckpointError(f"{file}: missing or not of the {record.size} bytes that were written")
    entries = {key: entry for name in state.files for key, entry in read_header(folder / name).items()}
    held: list[Held] = []
    for name in network.shapes:
        stored = native_tensors(network, name, int8=False)[0]
        held.append(Held(folder / state_file_of(name), stored, entries.get(_MASTER + name)))
    known = {_MASTER + one.stored.key for one in held}
    unknown = [
        f"{entry.file}: {key}" for key, entry in entries.items() if key not in known and not key.startswith(_MOMENTS)
    ]
    stages = tuple(cast("list[int]", metadata.get("stages") or [network.config.num_hidden_layers]))
    origin = Origin("deepspeed", int(metadata.get("tensor", 1)), stages, state.step, metadata)
    files = [folder / STATE_FILE, *(folder / name for name in sorted(state.files))]
    return Checkpoint(folder, origin, network, held, files=files, unknown=unknown, strict=strict)


def _config(folder: Path, said: Any) -> YuanConfig:
    if not isinstance(said, dict):
        raise CheckpointError(
            f"{folder / STATE_FILE}: does not say of which network it is (an older state); resume its run once, or "
            "convert the model that it made"
        )
    try:
        return YuanConfig.from_dict(cast("dict[str, Any]", said))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE_FILE}: model: {error}") from error
