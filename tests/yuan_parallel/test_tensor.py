"""A block divided over two processes computes what the whole block computes, forward and backward."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from yuan_model import Block, RotaryTable, YuanConfig, initialize_
from yuan_parallel.tensor import (
    TensorGroup,
    VocabularyParallelEmbedding,
    own_part_of_sequence,
    shard,
    shard_block_,
    shard_dimension,
    unshard,
)

SIZE = 2


def config(localized_filtering: bool) -> YuanConfig:
    return YuanConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=16,
        localized_filtering=localized_filtering,
        initializer_range=0.2,
    )


def whole(sizes: YuanConfig) -> tuple[Block, nn.Embedding]:
    block, embedding = Block(sizes), nn.Embedding(sizes.vocab_size, sizes.hidden_size)
    initialize_(block, sizes, 7, "model.layers.0.")
    torch.manual_seed(3)
    nn.init.normal_(embedding.weight)
    for name, parameter in block.named_parameters():  # norms and biases begin at one and zero: make them tell
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.1)
    return block, embedding


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 32, (2, 8), generator=generator), torch.randn(2, 8, 16, generator=generator)


def compare(rank: int, meeting: str, localized_filtering: bool, sequence: bool) -> None:
    """One rank: its block against the whole one, its gradients against those of the whole one."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=Path(meeting).as_uri(), rank=rank, world_size=SIZE)
    group = TensorGroup(SIZE, rank, torch.distributed.group.WORLD, sequence)
    sizes = config(localized_filtering)
    ids, weights_bsh = inputs()
    rotary = RotaryTable(sizes).between(0, 8, torch.device("cpu"))
    block, embedding = whole(sizes)
    expected = block(embedding(ids), rotary)
    (expected * weights_bsh).sum().backward()

    divided, _ = whole(sizes)
    shard_block_(divided, group)
    vocabulary = VocabularyParallelEmbedding(embedding.weight, group)
    found = divided(vocabulary(ids), rotary)
    # Without sequence parallelism every rank has the whole loss, with it a part of the sum.
    (found * own_part_of_sequence(weights_bsh, group)).sum().backward()

    torch.testing.assert_close(found, own_part_of_sequence(expected, group))
    named: dict[str, Any] = dict(divided.named_parameters())
    assert list(named) == [name for name, _ in block.named_parameters()]
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(named[name].grad, shard(name, parameter.grad, group), msg=name)
        marked = getattr(named[name], "model_parallel", False)
        assert marked == (shard_dimension(name) is not None), name
        torch.testing.assert_close(unshard(name, named[name].detach(), group), parameter.detach(), rtol=0, atol=0)
    assert embedding.weight.grad is not None
    torch.testing.assert_close(vocabulary.weight.grad, shard("embed_tokens.weight", embedding.weight.grad, group))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("localized_filtering", "sequence"),
    [
        pytest.param(True, True, id="filtered, sequence parallel"),
        pytest.param(True, False, id="filtered", marks=pytest.mark.slow),
        pytest.param(False, True, id="plain, sequence parallel", marks=pytest.mark.slow),
        pytest.param(False, False, id="plain", marks=pytest.mark.slow),
    ],
)
def test_a_block_over_two_ranks_gives_the_same_outputs_and_gradients(
    tmp_path: Path, localized_filtering: bool, sequence: bool
) -> None:
    arguments = [str(tmp_path / "meeting"), str(int(localized_filtering)), str(int(sequence))]
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), *arguments], stderr=subprocess.PIPE, text=True)
        for rank in range(SIZE)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * SIZE, "\n".join(said)


def test_heads_that_cannot_be_divided_are_refused() -> None:
    block, _ = whole(config(localized_filtering=True))
    with pytest.raises(ValueError, match="4 heads cannot be divided by 3"):
        shard_block_(block, TensorGroup(3, 0, None))


if __name__ == "__main__":
    compare(int(sys.argv[1]), sys.argv[2], bool(int(sys.argv[3])), bool(int(sys.argv[4])))
