"""How the ranks of a run write and read training states and models together.

A state is first copied into memory (12 bytes a parameter of the stage, on the rank that writes it), which is a
collective; then a thread of each writing rank puts it on disk while training goes on, and once every rank is done rank
0 makes the folder a state. All ranks learn of a failure together, so that none waits in a collective for one that has
given up.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

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
from yuan_trainer.lora import finish_adapter, merged, write_adapter_part
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


@dataclass(frozen=True)
class _Writing:
    """A state on its way to disk. records: of this rank's files, once they are there; None where it writes none."""

    step: int
    folder: Path
    metadata: Mapping[str, Any]
    records: "Future[dict[str, FileRecord]] | None"


class StateWriter:
    """Writes training states, one at a time."""

    def __init__(self, engine: Engine, specification: Specification) -> None:
        """Args: engine: whose state. specification: where to, and how many are kept."""
        self._engine = engine
        self._root = specification.state_root
        self._keep = specification.checkpoint_keep
        self._grid = specification.grid
        self._rank = torch.distributed.get_rank()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state-writer")
        self._writing: _Writing | None = None

    @property
    def is_open(self) -> bool:
        """Whether a state was begun and is not finished; the same on every rank."""
        return self._writing is not None

    @property
    def is_busy(self) -> bool:
        """Whether this rank's files are not all on disk."""
        records = None if self._writing is None else self._writing.records
        return records is not None and not records.done()

    def begin(self, step: int, metadata: Mapping[str, Any]) -> None:
        """Copies the state after a step and begins to write it; a collective. No other may be open.

        Raises:
            WorkFailed: if its folder cannot be made; earlier states stay whole.
        """
        folder = state_folder(self._root, step)

        def prepare() -> None:
            if self._rank == 0:
                prune_states(self._root, self._keep)
                folder.mkdir(parents=True, exist_ok=True)

        together(prepare, "the checkpoint's folder cannot be made")
        files = self._copy()
        records = self._thread.submit(_write_files, folder, files) if files else None
        self._writing = _Writing(step, folder, metadata, records)

    def finish(self) -> tuple[int, Path]:
        """Waits until every rank's files are on disk and makes the folder a state; a collective.

        Returns:
            The step that it contains, and its folder.

        Raises:
            WorkFailed: if the disk refused it; earlier states stay whole.
        """
        writing = self._writing
        if writing is None:
            raise ValueError("no state was begun")
        self._writing = None

        def written() -> dict[str, FileRecord]:
            return {} if writing.records is None else writing.records.result()

        def finish() -> None:
            if self._rank == 0:
                finish_state(writing.folder, writing.step, writing.metadata, everything)
                prune_states(self._root, self._keep)

        parts = together(written, f"the checkpoint of step {writing.step} could not be written")
        everything = {name: record for part in parts for name, record in part.items()}
        together(finish, f"the checkpoint of step {writing.step} could not be finished")
        return writing.step, writing.folder

    def _copy(self) -> dict[str, dict[str, dict[str, Tensor]]]:
        """Returns what this rank is to write: file to parameter to its tensors by part, on the processor."""
        files: dict[str, dict[str, dict[str, Tensor]]] = defaultdict(dict)
        for name, parameter in self._engine.module.native_parameters():
            if not parameter.requires_grad:
                continue
            # Putting tensors together is a collective of the ranks that share them: all take part, one keeps them.
            parts = gather_parts(self._engine, name, parameter)
            if self._grid.writes(self._rank):
                files[state_file_of(name)][name] = {part: tensor.cpu() for part, tensor in parts.items()}
        return files


def _write_files(folder: Path, files: dict[str, dict[str, dict[str, Tensor]]]) -> dict[str, FileRecord]:
    """Writes files one after another, and lets go of each one's tensors."""
    return {name: write_state_file(folder, name, files.pop(name)) for name in list(files)}


def restore_state(engine: Engine, folder: Path) -> TrainingState:
    """Puts a training state into this rank's weights and optimizer, whatever topology wrote it; a collective.

    Raises:
        TrainingStateError: if the state lacks a tensor of this model.
    """
    state = open_state(folder)
    named = [*engine.module.native_parameters(), *engine.module.tied_embedding()]
    parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
    files: dict[str, list[str]] = defaultdict(list)
    for name in parameters:
        files[state_file_of(name)].append(name)
    for file, names in files.items():
        for name, parts in state.read(file, names):
            scatter_parts(engine, name, parameters[name], parts)
    # Steps that were left out are no steps of the optimizer's.
    set_step_count(engine, int(state.metadata.get("optimizer_steps", state.step)))
    return state


def write_model(engine: Engine, specification: Specification, grid: Grid, folder: Path) -> None:
    """Writes the native model from the weights as they are, in the training's number format; a collective."""
    rank = torch.distributed.get_rank()
    files: dict[int | None, dict[str, nn.Parameter]] = defaultdict(dict)
    for name, parameter in engine.module.native_parameters():
        if name.startswith("model.layers."):
            files[int(name.split(".")[2])][name] = parameter
    if grid.stage(rank) == grid.pipeline - 1:
        # The last stage has the final norm and the tied embedding, its own or a copy.
        ends = dict([*engine.module.native_parameters(), *engine.module.tied_embedding()])
        files[None] = {name: parameter for name, parameter in ends.items() if not name.startswith("model.layers.")}
    failure: OSError | None = None
    lora, additions = specification.lora, dict[str, Tensor]()
    for layer, parameters in files.items():
        tensors = {name: full_weight(engine, name, parameter) for name, parameter in parameters.items()}
        if not grid.writes(rank) or failure is not None:
            continue
        if lora is not None:
            tensors, added = merged(tensors, lora)
            additions |= added
        try:
            if layer is None:
                write_embedding_file(folder, tensors)
            else:
                write_layer_file(folder, layer, tensors)
        except OSError as error:
            failure = error
    if additions and failure is None:
        try:
            write_adapter_part(folder, grid.stage(rank), additions)
        except OSError as error:
            failure = error

    def outcome() -> None:
        if failure is not None:
            raise failure

    def finish() -> None:
        if rank == 0:
            finish_native(folder, specification.model)
            if lora is not None:
                finish_adapter(folder, lora)

    together(outcome, "the model could not be written")
    together(finish, "the model could not be finished")
