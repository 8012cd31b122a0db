"""First weights depend on the seed and the parameter's name alone."""

from collections.abc import Callable

import pytest
import torch

from yuan_model import Block, Yuan, YuanConfig, initialize_


def initialized(config: YuanConfig, seed: int = 1) -> Yuan:
    model = Yuan(config)
    initialize_(model, config, seed)
    return model


def test_a_part_of_the_model_starts_with_the_numbers_that_the_whole_gives_it(
    small_config: Callable[..., YuanConfig],
) -> None:
    config = small_config(num_hidden_layers=3)
    whole = initialized(config)
    torch.manual_seed(99)  # the global generator has no part in it
    block = Block(config)
    initialize_(block, config, 1, prefix="model.layers.2.")
    for name, tensor in block.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[f"model.layers.2.{name}"])


def test_another_seed_or_another_layer_gives_other_numbers(small_config: Callable[..., YuanConfig]) -> None:
    first, second = initialized(small_config(), 1), initialized(small_config(), 2)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first.state_dict()[name], second.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], first.state_dict()[name.replace(".0.", ".1.")])


def test_spreads_are_the_configs_and_smaller_towards_the_residual_stream(
    small_config: Callable[..., YuanConfig],
) -> None:
    config = small_config(hidden_size=96, intermediate_size=256, initializer_range=0.05, num_hidden_layers=2)
    for name, tensor in initialized(config).state_dict().items():
        if name.endswith("norm.weight"):
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif name.endswith(".bias"):
            assert not tensor.any()
        else:
            expected = 0.05 / 2 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.05
            assert tensor.std().item() == pytest.approx(expected, rel=0.06), name
            assert abs(tensor.mean().item()) < 0.1 * expected, name


def test_a_bf16_module_gets_the_rounded_numbers(small_config: Callable[..., YuanConfig]) -> None:
    config = small_config()
    narrow = Yuan(config).to(torch.bfloat16)
    initialize_(narrow, config, 1)
    for name, tensor in initialized(config).state_dict().items():
        assert torch.equal(narrow.state_dict()[name], tensor.to(torch.bfloat16))
