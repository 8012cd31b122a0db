"""From a topology to the grid and stages of a run."""

from typing import Any

import pytest

from yuan_events import InputError
from yuan_manifest.schema import (
    DataSection,
    Kind,
    Nodes,
    Parallel,
    Precision,
    PretrainJob,
    Topology,
    TrainSection,
)
from yuan_model import YuanConfig
from yuan_parallel import Grid, ParallelPlan, plan_parallel

CONFIG = YuanConfig(
    vocab_size=16384,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=128,
)


def plan(devices: int = 4, global_batch_size: int = 16, micro_batch_size: int = 2, **parallel: Any) -> ParallelPlan:
    topology = Topology(nodes=Nodes(devices=devices), parallel=Parallel(**parallel))
    train = TrainSection(steps=1, global_batch_size=global_batch_size, micro_batch_size=micro_batch_size)
    job = PretrainJob(name="small", kind=Kind.pretrain, data=DataSection(sequence_length=64), train=train)
    return plan_parallel(topology, CONFIG, job, Precision.fp32)


def test_a_stage_list_is_taken_as_written() -> None:
    assert plan(pipeline=2, stages=[1, 3]).stages.layers == (1, 3)


def test_the_planner_gives_the_stage_with_the_logits_fewer_layers() -> None:
    first, last = plan(pipeline=2, stages="auto").stages.layers
    assert first > last


def test_data_parallelism_takes_the_devices_that_are_left() -> None:
    assert plan(devices=4, pipeline=2).grid.data == 2
    assert plan(devices=4, pipeline=1, tensor=2).grid == Grid(pipeline=1, data=2, tensor=2)


def test_micro_batches_are_counted_per_replica() -> None:
    assert plan(devices=2, pipeline=1).micro_batches == 4


def test_the_sequence_is_divided_only_with_the_matrices() -> None:
    assert plan(pipeline=1, tensor=2).sequence
    assert not plan(pipeline=1, tensor=2, sequence=False).sequence
    assert not plan(pipeline=2).sequence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pipeline": 2, "stages": [2, 3]}, "stages: [2, 3] sum to 5, but model.num_hidden_layers is 4"),
        ({"pipeline": 3, "stages": [1, 3]}, "are 2 stages, but topology.parallel.pipeline is 3"),
        ({"pipeline": 5}, "5 stages for 4 layers"),
        ({"pipeline": 2, "data": 3}, "are 6 ranks, more than the devices, 1 x 4 = 4"),
        ({"pipeline": 1, "data": 3}, "16 is no multiple of 6"),
        ({"tensor": 3, "data": 1}, "tensor: 3 does not divide model.num_attention_heads 4"),
        ({"tensor": 2, "zero_stage": 3}, "zero_stage: 3 with tensor parallelism"),
        ({"pipeline": 2, "zero_stage": 2}, "zero_stage: 2 with 2 pipeline stages"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        plan(**arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
