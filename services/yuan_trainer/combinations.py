"""Which ways of dividing a training go together with which settings, and what ranks draw alike.

The sizes that must divide one another, and ZeRO's stages with pipeline and tensor parallelism, are checked with the
topology (`yuan_manifest.topology`); here is what depends on settings that only this machine resolves.
"""

import hashlib

from yuan_events import InputError
from yuan_manifest.schema import Precision, TrainSection
from yuan_trainer.specification import Specification

SIXTEEN_BITS = (Precision.bf16, Precision.fp16)


def check_combination(train: TrainSection, zero_stage: int) -> None:
    """Checks a run whose precision is resolved.

    Raises:
        InputError: if no engine here trains so; one line that names the key to change.
    """
    if zero_stage == 0 and train.precision in SIXTEEN_BITS:
        raise InputError(
            f"topology.parallel.zero_stage: 0 keeps no fp32 weights beside {train.precision} ones (train.precision); "
            "set topology.parallel.zero_stage=1, or train.precision=fp32"
        )
    if zero_stage == 3 and train.compile:
        raise InputError(
            "train.compile: true is not tested with weights that are divided (topology.parallel.zero_stage 3); "
            "set train.compile=false, or topology.parallel.zero_stage=2"
        )


def engine_zero_stage(specification: Specification) -> int:
    """Returns ZeRO's stage that an engine runs.

    One replica in fp32 has nobody to share with: there, stages 1 and 2 would only keep the weights twice.
    """
    alone = specification.grid.data == 1 and specification.grid.pipeline == 1
    if alone and specification.train.precision == Precision.fp32 and specification.zero_stage < 3:
        return 0
    return specification.zero_stage


def step_seed(specification: Specification, step: int, rank: int) -> int:
    """Returns the seed of what a rank draws in a step (dropout): the same one when the step is run again.

    Stages and replicas draw on their own. Ranks that share matrices draw alike, since each has the whole residual
    stream; unless they share the sequence, too.
    """
    grid = specification.grid
    part = grid.tensor_rank(rank) if specification.sequence else 0
    key = f"{specification.train.seed} {step} {grid.stage(rank)} {grid.replica(rank)} {part}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1
