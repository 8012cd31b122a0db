"""What a rank is told: one frozen value, handed over as a JSON file, in which every choice is already made."""

import json
from dataclasses import dataclass, field, fields, is_dataclass
from enum import EnumType
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from yuan_manifest.schema import (
    CheckpointSection,
    DataSection,
    FinetuneMethod,
    FinetuneSection,
    LoraSection,
    OptimizerSection,
    TrainSection,
)
from yuan_model import YuanConfig
from yuan_parallel import Grid


@dataclass(frozen=True)
class DatasetPart:
    """A dataset of the blend. folder: of the artifact. weight: its share before normalising."""

    folder: Path
    weight: float


@dataclass(frozen=True)
class Specification:
    """A training run as its ranks see it.

    Attributes:
        model: the network.
        datasets: what is blended.
        data: how samples are cut.
        train: the run; its precision and attention are resolved (never `auto`).
        optimizer: AdamW and its schedule.
        stages: transformer layers per pipeline stage.
        replicas: data-parallel size.
        tensor: tensor-parallel size.
        sequence: tensor-parallel ranks share the sequence, too.
        zero_stage: what data-parallel ranks share: 0 nothing, 1 the optimizer's state, 2 gradients, 3 weights as well.
        device: `cpu` or `cuda`.
        checkpoint_steps: a training state is written every so many steps; 0: only on a stop.
        checkpoint_keep: finished states kept.
        validation_steps: validation every so many steps, 0: before the first and after the last only.
        validation_samples: samples of one validation; 0: none.
        eod_token_id: ends a document in the datasets.
        state_root: folder of training states.
        resume_from: the state to continue from, or None to begin.
        output: folder to write the native model to.
        start_from: native folder of first weights; None: they are drawn, or the state to continue from has them.
        finetune: how answers are learnt; None: pretraining.
        tokenizer: its folder, where samples are tokenized anew (`data.fim_rate`).
        sep_token_id: ends a question, for fine-tuning.
        pad_token_id: fills samples, for fine-tuning.
        checkpoint: how states are written, and whether the best weights are kept.
        device_flops: floating-point operations a second of a device, for MFU; None: measured.
    """

    model: YuanConfig
    datasets: tuple[DatasetPart, ...]
    data: DataSection
    train: TrainSection
    optimizer: OptimizerSection
    stages: tuple[int, ...]
    replicas: int
    device: str
    checkpoint_steps: int
    checkpoint_keep: int
    validation_steps: int
    validation_samples: int
    eod_token_id: int
    state_root: Path
    resume_from: Path | None
    output: Path
    start_from: Path | None = None
    finetune: FinetuneSection | None = None
    tokenizer: Path | None = None
    sep_token_id: int | None = None
    pad_token_id: int | None = None
    tensor: int = 1
    sequence: bool = False
    zero_stage: int = 1
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    device_flops: float | None = None

    @property
    def grid(self) -> Grid:
        """The ranks of the run."""
        return Grid(pipeline=len(self.stages), data=self.replicas, tensor=self.tensor)

    @property
    def lora(self) -> LoraSection | None:
        """Low-rank additions; None where all weights are trained."""
        is_lora = self.finetune is not None and self.finetune.method == FinetuneMethod.lora
        return self.finetune.lora if self.finetune is not None and is_lora else None

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step over all replicas."""
        return self.train.global_batch_size // self.train.micro_batch_size

    def write(self, path: Path) -> None:
        """Writes the specification where a rank will read it."""
        path.write_text(json.dumps(_plain(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Specification":
        """Reads what `write` wrote."""
        return _read(cls, json.loads(path.read_text(encoding="utf-8")))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def _read(kind: Any, value: Any) -> Any:
    """Returns a value of a type from what `_plain` made of it."""
    if get_origin(kind) in (Union, UnionType):
        if value is None:
            return None
        kind = next(option for option in get_args(kind) if option is not NoneType)
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return cast("Any", kind)(**{name: _read(kinds[name], item) for name, item in value.items()})
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], item) for item in value)
    if get_origin(kind) is list:
        return [_read(get_args(kind)[0], item) for item in value]
    return kind(value) if kind is Path or isinstance(kind, EnumType) else value
