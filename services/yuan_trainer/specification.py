"""What a rank is told: one frozen value, handed over as a JSON file, in which every choice is already made."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf

from yuan_manifest.schema import DataSection, OptimizerSection, TrainSection
from yuan_model import YuanConfig

SectionT = TypeVar("SectionT")


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
        train: the run; its precision is resolved (never `auto`).
        optimizer: AdamW and its schedule.
        stages: transformer layers per pipeline stage.
        replicas: data-parallel size.
        device: `cpu` or `cuda`.
        checkpoint_steps: a training state is written every so many steps; 0: only on a stop.
        checkpoint_keep: finished states kept.
        validation_steps: validation every so many steps, 0: before the first and after the last only.
        validation_samples: samples of one validation; 0: none.
        eod_token_id: ends a document in the datasets.
        state_root: folder of training states.
        resume_from: the state to continue from, or None to begin.
        output: folder to write the native model to.
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

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one step over all replicas."""
        return self.train.global_batch_size // self.train.micro_batch_size

    def write(self, path: Path) -> None:
        """Writes the specification where a rank will read it."""
        fields = {name: _plain(value) for name, value in vars(self).items()}
        fields["model"] = self.model.to_dict()
        path.write_text(json.dumps(fields, indent=1, default=str), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Specification":
        """Reads what `write` wrote."""
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        resume_from = fields.pop("resume_from")
        return cls(
            model=YuanConfig.from_dict(fields.pop("model")),
            datasets=tuple(DatasetPart(Path(part["folder"]), part["weight"]) for part in fields.pop("datasets")),
            data=_section(DataSection, fields.pop("data")),
            train=_section(TrainSection, fields.pop("train")),
            optimizer=_section(OptimizerSection, fields.pop("optimizer")),
            stages=tuple(fields.pop("stages")),
            state_root=Path(fields.pop("state_root")),
            resume_from=None if resume_from is None else Path(resume_from),
            output=Path(fields.pop("output")),
            **fields,
        )


def _plain(value: object) -> object:
    if isinstance(value, DataSection | TrainSection | OptimizerSection):
        return asdict(value)
    if isinstance(value, tuple):
        parts = cast("tuple[int | DatasetPart, ...]", value)
        return [asdict(part) if isinstance(part, DatasetPart) else part for part in parts]
    return value


def _section(kind: type[SectionT], fields: dict[str, Any]) -> SectionT:
    return cast("SectionT", OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), fields)))
