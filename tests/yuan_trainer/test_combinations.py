"""What no engine trains is refused in one line; what ranks draw depends on the step and on what they hold."""

from dataclasses import replace

import pytest

from yuan_events import InputError
from yuan_manifest.schema import Precision, TrainSection
from yuan_trainer.combinations import check_combination, step_seed
from yuan_trainer.specification import Specification


@pytest.mark.parametrize("precision", [Precision.bf16, Precision.fp16])
def test_sixteen_bits_without_zero_are_refused(precision: Precision) -> None:
    with pytest.raises(InputError, match=r"^topology\.parallel\.zero_stage: 0 keeps no fp32 weights"):
        check_combination(TrainSection(steps=1, global_batch_size=1, precision=precision), 0)


def test_compiled_blocks_with_divided_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"^train\.compile: "):
        check_combination(TrainSection(steps=1, global_batch_size=1, precision=Precision.fp32, compile=True), 3)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_fp32_trains_with_every_stage_of_zero(stage: int) -> None:
    check_combination(TrainSection(steps=1, global_batch_size=1, precision=Precision.fp32), stage)


def test_ranks_that_share_matrices_draw_alike_unless_they_share_the_sequence(specification: Specification) -> None:
    divided = replace(specification, stages=(2, 2), replicas=2, tensor=2)
    seeds = [step_seed(divided, 7, rank) for rank in range(8)]
    assert seeds[::2] == seeds[1::2]
    assert len(set(seeds)) == 4
    assert len({step_seed(replace(divided, sequence=True), 7, rank) for rank in range(8)}) == 8
    assert step_seed(divided, 8, 0) != step_seed(divided, 7, 0)
    assert all(0 <= seed < 1 << 63 for seed in seeds)
