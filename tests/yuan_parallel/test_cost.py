"""Parameters and floating-point operations, and the paper's printed formulas."""

import pytest
import torch
from hypothesis import given
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.yuan_parallel.cases import DEVICES, SIZES, cases, division, training
from yuan_manifest.schema import LoraSection, Recompute
from yuan_model import Yuan, YuanConfig
from yuan_parallel import Devices, Division, Prediction, Training
from yuan_parallel.cost import (
    layer_flops_per_token,
    logits_flops_per_token,
    lora_parameters,
    model_flops_per_token,
    parameter_count,
    stage_flops,
)
from yuan_parallel.memory import stage_parameters


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_of_the_network(name: str) -> None:
    assert parameter_count(SIZES[name]) == SIZES[name].parameter_count()


@given(cases())
def test_stages_hold_the_network_and_a_second_embedding(case: tuple[Training, Division, Devices]) -> None:
    drawn, divided, _ = case
    network, bounds = drawn.network, divided.stages.bounds
    held = sum(
        stage_parameters(drawn, divided, range(bounds[stage], bounds[stage + 1])) for stage in range(divided.pipeline)
    )
    twice = network.vocab_size * network.hidden_size * (divided.pipeline > 1)
    assert held == parameter_count(network) + twice


@pytest.mark.parametrize("localized_filtering", [True, False])
def test_flops_are_those_that_torch_counts(localized_filtering: bool) -> None:
    config = YuanConfig(300, 64, 2, 4, 160, 64, localized_filtering=localized_filtering)
    model, tokens = Yuan(config), torch.zeros(2, 32, dtype=torch.int64)
    # Of torch's attentions on a processor only this one is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens)
    counted = 2 * layer_flops_per_token(config, 32) + logits_flops_per_token(config)
    assert counter.get_total_flops() == pytest.approx(64 * counted)


def test_recomputing_whole_layers_costs_another_forward_pass_of_them() -> None:
    plain, again = training(), training(recompute=Recompute.full)
    layers = range(2, 6)
    extra = stage_flops(again, layers, 1).backward - stage_flops(plain, layers, 1).backward
    assert extra == pytest.approx(stage_flops(plain, layers, 1).forward)
    half = training(recompute=Recompute.full, recompute_every=2)
    assert stage_flops(half, layers, 1).backward == pytest.approx(stage_flops(plain, layers, 1).backward + extra / 2)


def test_mfu_is_6n_and_12lhs_and_hfu_adds_what_is_recomputed() -> None:
    network = SIZES["51b"]
    again = training(network=network, sequence_length=4096, recompute=Recompute.full)
    assert model_flops_per_token(again) == 6 * network.parameter_count() + 12 * 42 * 8192 * 4096
    found = Prediction(again, division(pipeline=8, layers=42), DEVICES)
    forward = 42 * layer_flops_per_token(network, 4096)
    assert found.hfu / found.mfu == pytest.approx(1 + forward / model_flops_per_token(again))
    same = Prediction(training(), division(), DEVICES)
    assert same.hfu == same.mfu


def test_low_rank_additions_have_rank_times_both_widths() -> None:
    lora = LoraSection(rank=4, targets=["qk_proj", "down_proj"])
    assert lora_parameters(training(lora=lora)) == 4 * (256 + 512) + 4 * (704 + 256)
    assert lora_parameters(training()) == 0
