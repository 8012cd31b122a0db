"""What a device of each stage holds, beside what torch and autograd really keep."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tests.yuan_parallel.cases import DEVICES, division, training
from yuan_manifest.schema import LoraSection, Precision, Recompute
from yuan_model import Block, RotaryTable, YuanConfig, blockwise_cross_entropy
from yuan_parallel import Prediction, StagePlan
from yuan_parallel.memory import memory_of_stages, stage_memory

CONFIG = YuanConfig(512, 256, 2, 4, 704, 256)


def kept_bytes(dtype: torch.dtype, recompute: Recompute) -> int:
    """Returns the bytes that one block's forward pass keeps, its weights and rotary tables left out."""
    block = Block(CONFIG).to(dtype)
    block.recompute = recompute.value
    hidden = torch.randn(2, 128, CONFIG.hidden_size, dtype=dtype, requires_grad=True)
    rotary = RotaryTable(CONFIG).between(0, 128, hidden.device)
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        block(hidden, rotary)
    for tensor in (*block.parameters(), *rotary):
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(sizes.values())


@pytest.mark.parametrize("recompute", list(Recompute))
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_activations_of_a_layer_are_those_that_autograd_keeps(precision: Precision, recompute: Recompute) -> None:
    drawn = training(network=CONFIG, sequence_length=128, precision=precision, recompute=recompute)
    one, two = (
        stage_memory(replace(drawn, network=replace(CONFIG, num_hidden_layers=layers)), division(layers=layers), 0)
        for layers in (1, 2)
    )
    dtype = torch.float32 if precision == Precision.fp32 else torch.bfloat16
    kept = kept_bytes(dtype, recompute)
    # CUDA's norm keeps an fp32 copy of its input, which is counted, the processor's does not.
    copies = 3 * 256 * CONFIG.hidden_size * 2 * (precision == Precision.bf16 and recompute != Recompute.full)
    assert two.activations - one.activations - copies == pytest.approx(kept, rel=0.05)


def test_logits_are_those_that_the_loss_holds() -> None:
    drawn = training(network=CONFIG, sequence_length=128, precision=Precision.fp32, loss_block_tokens=64)
    hidden = torch.randn(2, 128, 256, requires_grad=True)
    weight = torch.randn(512, 256, requires_grad=True)
    loss = blockwise_cross_entropy(hidden, weight, torch.zeros(2, 128, dtype=torch.int64), block_tokens=64)
    assert loss.requires_grad
    logits, gradients = 64 * 512 * 4, (hidden.numel() + weight.numel()) * 4
    assert stage_memory(drawn, division(layers=2), 0).logits == logits + gradients
    whole = stage_memory(replace(drawn, loss_block_tokens=0), division(layers=2), 0).logits
    assert whole - (logits + gradients) == (256 - 64) * 512 * 4


def test_zero_shards_the_optimizer_then_gradients_then_weights() -> None:
    alone = stage_memory(training(), division(), 0)
    one, two, three = (stage_memory(training(), division(data=4, zero_stage=stage), 0) for stage in (1, 2, 3))
    assert one.optimizer == two.optimizer == three.optimizer == alone.optimizer / 4
    assert (one.gradients, two.gradients) == (alone.gradients, alone.gradients / 4)
    assert (two.weights, three.weights) == (alone.weights, alone.weights / 4)


def test_bf16_weights_have_fp32_sums_masters_and_moments() -> None:
    count = training().network.parameter_count()
    memory = stage_memory(training(), division(), 0)
    assert (memory.weights, memory.gradients, memory.optimizer) == (2 * count, 4 * count, 12 * count)
    plain = stage_memory(training(precision=Precision.fp32), division(zero_stage=0), 0)
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * count, 4 * count, 8 * count)


def test_early_stages_hold_more_and_the_last_has_the_logits() -> None:
    stages = memory_of_stages(training(), division(pipeline=4))
    assert [stage.logits > 0 for stage in stages] == [False, False, False, True]
    assert stages[0].activations > stages[1].activations > stages[2].activations
    assert stages[0].weights == pytest.approx(stages[3].weights, rel=1e-3)
    assert stages[1].weights < stages[0].weights


def test_tensor_parallelism_divides_all_but_the_filter_and_the_norms() -> None:
    whole, half = (stage_memory(training(), division(tensor=size), 0) for size in (1, 2))
    network = training().network
    kept_whole = 8 * (2 * 256**2 + 256 // 2 + 256 + 3 * 256) + 256
    assert half.weights == (network.parameter_count() - kept_whole) / 2 * 2 + kept_whole * 2
    assert half.activations < whole.activations
    with_whole_sequence = replace(division(tensor=2), sequence=False)
    assert half.activations < stage_memory(training(), with_whole_sequence, 0).activations


def test_low_rank_additions_alone_have_gradients_and_optimizer_states() -> None:
    full, lora = (stage_memory(training(lora=one), division(), 0) for one in (None, LoraSection()))
    assert lora.gradients < 0.1 * full.gradients
    assert lora.optimizer == 3 * lora.gradients
    assert lora.weights > full.weights


def test_a_plan_fits_where_its_fullest_stage_does() -> None:
    drawn, divided = training(), division(pipeline=2).with_stages(StagePlan((6, 2)))
    plan = Prediction(drawn, divided, DEVICES)
    totals = [stage.total for stage in plan.memory]
    assert plan.peak == max(totals)
    assert Prediction(drawn, divided, replace(DEVICES, memory=max(totals))).fits
    assert not Prediction(drawn, divided, replace(DEVICES, memory=max(totals) - 1)).fits
