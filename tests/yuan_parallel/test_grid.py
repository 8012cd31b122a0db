"""The grid of ranks."""

import pytest
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from hypothesis import given
from hypothesis import strategies as st

from yuan_parallel import Grid

SIZES = st.integers(1, 6)


@given(SIZES, SIZES, SIZES)
def test_ranks_lie_where_deepspeed_puts_them(pipeline: int, data: int, tensor: int) -> None:
    grid = Grid(pipeline=pipeline, data=data, tensor=tensor)
    theirs = PipeModelDataParallelTopology(num_pp=pipeline, num_dp=data, num_mp=tensor)
    for rank in range(grid.ranks):
        coordinates = theirs.get_coord(rank)
        found = (grid.stage(rank), grid.replica(rank), grid.tensor_rank(rank))
        assert found == (coordinates.pipe, coordinates.data, coordinates.model)
        assert grid.rank(*found) == rank


@given(SIZES, st.integers(1, 5))
def test_replicas_share_all_micro_batches_and_none_twice(data: int, each: int) -> None:
    grid = Grid(pipeline=1, data=data)
    shares = [grid.micro_batches(replica, data * each) for replica in range(data)]
    assert sorted(number for share in shares for number in share) == list(range(data * each))
    assert {len(share) for share in shares} == {each}


def test_micro_batches_that_do_not_come_out_even_are_refused() -> None:
    with pytest.raises(ValueError, match="7 micro-batches cannot be shared evenly by 2 replicas"):
        Grid(pipeline=1, data=2).micro_batches(0, 7)


def test_ranks_and_sizes_outside_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="pipeline size must be at least 1"):
        Grid(pipeline=0, data=1)
    with pytest.raises(ValueError, match="rank 4 is outside"):
        Grid(pipeline=2, data=2).stage(4)
    with pytest.raises(ValueError, match="stage 2, replica 0, tensor rank 0 is outside"):
        Grid(pipeline=2, data=2).rank(2, 0)
