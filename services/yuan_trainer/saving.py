"""How the ranks of a run write and read training states and the finished model together.

Every stage writes its own files from its first replica; all ranks learn of a failure together, so that none waits in
a collective for one that has given up.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import nn

from yuan_checkpoint.native import finish_native, write_embedding_file, write_layer_file
from yuan_checkpoint.training_state import (
    FileRecord,
    TrainingState,
    finish_state,
    open_state,
    prune_states,
    state_file_of,
    state_folder,
    write_state_file,
)
from yuan_events import WorkFailed
from yuan_parallel import Grid
from yuan_trainer.engine import Engine
from yuan_trainer.optimizer_state import full_weight, gather_parts, scatter_parts, set_step_count
from yuan_trainer.specification import Specification

ResultT = TypeVar("ResultT")


def together(action: Callable[[], ResultT], what: str) -> list[ResultT]:
    """Runs an action that must not raise alone on every rank; returns the results of all, by rank.

    Raises:
        WorkFailed: on every rank, if the disk refused any of them; says which and why.
    """
    outcome: tuple[str, Any]
    try:
        outcome = ("done", action())
    except OSError as error:
        reason = error.strerror or str(error)
        outcome = ("failed", f"{what}: {reason}" + (f" ({error.filename})" if error.filename else ""))
    outcomes: list[tuple[str, Any]] = [("", None)] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(outcomes, outcome)
    for state, value in outcomes:
        if state == "failed":
            raise WorkFailed(value)
    return [value for _, value in outcomes]


def save_state(engine: Engine, specification: Specification, grid: Grid, step: int, metadata: dict[str, Any]) -> Path:
    """Writes the training state after a step and deletes what `checkpoint.keep` no longer covers; a collective.

    Raises:
        WorkFailed: if the disk refuses it; earlier states stay whole.
    """
    root = specification.state_root
    folder = state_folder(root, step)
    rank = torch.distributed.get_rank()

    def prepare() -> None:
        if rank == 0:
            prune_states(root, specification.checkpoint_keep)
            folder.mkdir(parents=True, exist_ok=True)

    together(prepare, "the checkpoint's folder cannot be made")
    files: dict[str, list[str]] = defaultdict(list)
    parameters = dict(engine.module.native_parameters())
    for name in parameters:
        files[state_file_of(name)].append(name)
    writes = grid.writes(rank)
    records: dict[str, FileRecord] = {}
    failure: OSError | None = None
    for file, names in files.items():
        # Gathering is a collective of a stage's replicas: all take part, one writes.
        tensors = {name: gather_parts(engine, name, parameters[name]) for name in names}
        if writes and failure is None:
            try:
                records[file] = write_state_file(folder, file, tensors)
            except OSError as error:
                failure = error

    def result() -> dict[str, FileRecord]:
        if failure is not None:
            raise failure
        return records

    everything = {
        name: record
        for part in together(result, f"the checkpoint of step {step} could not be written")
        for name, record in part.items()
    }

    def finish() -> None:
        if rank == 0:
            finish_state(folder, step, metadata, everything)
            prune_states(root, specification.checkpoint_keep)

    together(finish, f"the checkpoint of step {step} could not be finished")
    return folder


def restore_state(engine: Engine, folder: Path) -> TrainingState:
    """Puts a training state into this rank's weights and optimizer, whatever topology wrote it.

    Raises:
        TrainingStateError: if the state lacks a tensor of this model.
    """
    state = open_state(folder)
    parameters = dict([*engine.module.native_parameters(), *engine.module.tied_embedding()])
    files: dict[str, list[str]] = defaultdict(list)
    for name in parameters:
        files[state_file_of(name)].append(name)
    for file, names in files.items():
        for name, parts in state.read(file, names):
            scatter_parts(engine, name, parameters[name], parts)
    set_step_count(engine, state.step)
    return state


def write_model(engine: Engine, specification: Specification, grid: Grid) -> None:
    """Writes the native model from the weights as they are, in the training's number format; a collective."""
    rank = torch.distributed.get_rank()
    folder = specification.output
    files: dict[int | None, dict[str, nn.Parameter]] = defaultdict(dict)
    for name, parameter in engine.module.native_parameters():
        if name.startswith("model.layers."):
            files[int(name.split(".")[2])][name] = parameter
    if grid.stage(rank) == grid.pipeline - 1:
        # The last stage has the final norm and the tied embedding, its own or a copy.
        ends = dict([*engine.module.native_parameters(), *engine.module.tied_embedding()])
        files[None] = {name: parameter for name, parameter in ends.items() if not name.startswith("model.layers.")}
    failure: OSError | None = None
    for layer, parameters in files.items():
        # Putting weights together is a collective of the ranks that share them: all take part, one writes.
        tensors = {name: full_weight(engine, name, parameter) for name, parameter in parameters.items()}
        if not grid.writes(rank) or failure is not None:
            continue
        try:
            if layer is None:
                write_embedding_file(folder, tensors)
            else:
                write_layer_file(folder, layer, tensors)
        except OSError as error:
            failure = error

    def outcome() -> None:
        if failure is not None:
            raise failure

    def finish() -> None:
        if rank == 0:
            finish_native(folder, specification.model)

    together(outcome, "the model could not be written")
    together(finish, "the model could not be finished")
