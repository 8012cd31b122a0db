"""From a topology to the grid and stages of a run."""

from typing import Any

import pytest

from yuan_events import InputError
from yuan_manifest.schema import Nodes, Parallel, Topology
from yuan_model import YuanConfig
from yuan_parallel import ParallelPlan, plan_parallel

CONFIG = YuanConfig(
    vocab_size=4096,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=128,
    max_position_embeddings=128,
)


def plan(devices: int = 4, global_batch_size: int = 16, micro_batch_size: int = 2, **parallel: Any) -> ParallelPlan:
    topology = Topology(nodes=Nodes(devices=devices), parallel=Parallel(**parallel))
    return plan_parallel(
        topology,
        CONFIG,
        sequence_length=64,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
    )


def test_a_stage_list_is_taken_as_written() -> None:
    assert plan(pipeline=2, stages=[1, 3]).stages.layers == (1, 3)


def test_the_planner_gives_the_stage_with_the_logits_fewer_layers() -> None:
    first, last = plan(pipeline=2, stages="auto").stages.layers
    assert first > last


def test_data_parallelism_takes_the_devices_that_are_left() -> None:
    assert plan(devices=4, pipeline=2).grid.data == 2
    assert plan(devices=3, pipeline=1, global_batch_size=8).grid.data == 2, "4 micro-batches are not shared by 3"


def test_micro_batches_are_counted_per_replica() -> None:
    assert plan(devices=2, pipeline=1).micro_batches == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pipeline": 2, "stages": [2, 3]}, "stages: [2, 3] sums to 5, model.num_hidden_layers is 4"),
        ({"pipeline": 3, "stages": [1, 3]}, "is for 2 stages, topology.parallel.pipeline is 3"),
        ({"pipeline": 2, "stages": [0, 4]}, "stage 0 has 0 layers"),
        ({"pipeline": 2, "stages": "balanced"}, "expected auto, uniform or a list"),
        ({"pipeline": 5}, "5 stages are more than the model's 4 layers"),
        ({"pipeline": 2, "data": 3}, "needs 6 devices, topology.nodes has 4"),
        ({"pipeline": 1, "data": 3}, "cannot be shared evenly by 3 replicas"),
        ({"pipeline": 1, "data": 0}, "expected auto or a whole number from 1"),
        ({"micro_batch_size": 3}, "16 is not a multiple of train.micro_batch_size 3"),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        plan(**arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
