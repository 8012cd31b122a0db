"""Properties of the network that no golden file shows."""

from collections.abc import Callable

import pytest
import torch
from tests.yuan_model.conftest import EOD
from torch import Tensor, nn
from torch.nn import functional

from yuan_model import (
    CausalConvolution,
    LocalizedFilter,
    RMSNorm,
    RotaryTable,
    Yuan,
    YuanConfig,
    document_segments,
    parameter_shapes,
)


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_state_dict_keys_are_the_native_tensor_names(small_model: Callable[..., Yuan]) -> None:
    model = small_model(num_hidden_layers=1)
    layer = "model.layers.0."
    assert list(model.state_dict()) == [
        "model.embed_tokens.weight",
        f"{layer}input_layernorm.weight",
        f"{layer}self_attn.v_proj.weight",
        f"{layer}self_attn.qk_proj.weight",
        f"{layer}self_attn.o_proj.weight",
        f"{layer}self_attn.lf_gate.conv1.weight",
        f"{layer}self_attn.lf_gate.conv1.bias",
        f"{layer}self_attn.lf_gate.conv2.weight",
        f"{layer}self_attn.lf_gate.conv2.bias",
        f"{layer}self_attn.lf_gate.output_layernorm.weight",
        f"{layer}post_attention_layernorm.weight",
        f"{layer}mlp.up_proj.weight",
        f"{layer}mlp.gate_proj.weight",
        f"{layer}mlp.down_proj.weight",
        "model.norm.weight",
    ]
    written_down = list(parameter_shapes(model.config).items())
    assert written_down == [(name, tensor.shape) for name, tensor in model.state_dict().items()]


def test_the_convolution_is_a_convolution_with_the_step_before_on_its_left() -> None:
    torch.manual_seed(0)
    ours = CausalConvolution(6, 4)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    steps, before = torch.randn(2, 9, 6), torch.randn(2, 1, 6)
    padded = torch.cat((before, steps), dim=1).transpose(1, 2).unsqueeze(-1)
    theirs = functional.conv2d(padded, ours.weight, ours.bias).squeeze(-1).transpose(1, 2)
    older = torch.cat((before, steps[:, :-1]), dim=1)
    torch.testing.assert_close(ours(steps, older), theirs)


def test_the_first_step_of_the_filter_sees_zeros_and_not_the_first_convolutions_bias(
    small_config: Callable[..., YuanConfig],
) -> None:
    torch.manual_seed(0)
    gate = LocalizedFilter(small_config())
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    step = torch.randn(1, 1, 24)
    first = step @ gate.conv1.weight[:, :, 1, 0].T + gate.conv1.bias
    second = first @ gate.conv2.weight[:, :, 1, 0].T + gate.conv2.bias
    torch.testing.assert_close(gate(step), gate.output_layernorm(second + step))


def test_the_filter_looks_two_steps_back_and_no_further(small_config: Callable[..., YuanConfig]) -> None:
    torch.manual_seed(0)
    gate = LocalizedFilter(small_config())
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    steps = torch.randn(1, 8, 24)
    changed = steps.clone()
    changed[0, 3] += 1.0
    moved = (gate(steps) != gate(changed)).any(dim=-1)[0]
    assert moved.tolist() == [False, False, False, True, True, True, False, False]


def test_the_filters_norm_keeps_its_own_epsilon(small_model: Callable[..., Yuan]) -> None:
    block = small_model(rms_norm_eps=1e-2).layers[0]
    assert block.input_layernorm.eps == 1e-2
    assert block.self_attn.lf_gate is not None
    assert block.self_attn.lf_gate.output_layernorm.eps == 1e-6


def test_a_token_changes_no_logits_before_it(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    ids = tokens(1, 12)
    changed = ids.clone()
    changed[0, 7] = (ids[0, 7] + 1) % 40
    moved = (model(ids) - model(changed)).abs().amax(dim=-1)[0] > 1e-6
    assert moved.tolist() == [False] * 7 + [True] * 5


def test_without_localized_filtering_attention_is_plain_and_has_no_filter_parameters(
    small_model: Callable[..., Yuan],
) -> None:
    model = small_model(localized_filtering=False, num_hidden_layers=1)
    assert not [name for name in model.state_dict() if "lf_gate" in name]
    attention, normed = model.layers[0].self_attn, torch.randn(1, 5, 24)
    cosine, sine = model.rotary(torch.arange(5))

    def rotated(heads: Tensor) -> Tensor:
        swapped = torch.cat((-heads[..., 4:], heads[..., :4]), dim=-1)
        return heads * cosine + swapped * sine

    fused = attention.qk_proj(normed).view(1, 5, 3, 16).transpose(1, 2)
    scores = rotated(fused[..., :8]) @ rotated(fused[..., 8:]).transpose(-1, -2) / 8**0.5
    weights = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(dim=-1)
    mixed = weights @ attention.v_proj(normed).view(1, 5, 3, 8).transpose(1, 2)
    expected = attention.o_proj(mixed.transpose(1, 2).reshape(1, 5, 24))
    torch.testing.assert_close(attention(normed, (cosine, sine)), expected)


def test_segments_count_the_ends_strictly_before_a_position() -> None:
    ids = torch.tensor([[5, EOD, 6, 6, EOD, EOD, 7], [EOD, 1, 1, 1, 1, 1, EOD]])
    assert document_segments(ids, EOD).tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


def test_with_reset_a_documents_logits_do_not_depend_on_the_one_before_but_through_the_filter(
    small_model: Callable[..., Yuan],
) -> None:
    model = small_model(attention_reset_at_eod=True, localized_filtering=False)
    first, second = tokens(1, 8, seed=1).clamp_min(EOD + 1), tokens(1, 9, seed=2).clamp_min(EOD + 1)
    packed = torch.cat((first, torch.tensor([[EOD]]), second), dim=1)
    # Rotary attention depends on distances only, so the second document alone gives the same logits.
    torch.testing.assert_close(model(packed)[:, 9:], model(second), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reset", [False, True])
def test_blocks_used_alone_are_the_model(reset: bool, small_model: Callable[..., Yuan]) -> None:
    model = small_model(attention_reset_at_eod=reset)
    ids = tokens(2, 16)
    segments = document_segments(ids, EOD) if reset else None
    hidden = model.embed_tokens(ids)
    rotary = RotaryTable(model.config)(torch.arange(16))
    for block in model.layers:
        hidden = block(hidden, rotary, segments)
    logits = functional.linear(model.norm(hidden), model.embed_tokens.weight)
    torch.testing.assert_close(logits, model(ids))


def test_rotary_positions_of_each_sequence_may_differ(small_model: Callable[..., Yuan]) -> None:
    block = small_model().layers[0]
    table = small_model().rotary
    hidden = torch.randn(2, 4, 24)
    shifted = torch.stack((torch.arange(4), torch.arange(4) + 9))
    both = block(hidden, table(shifted))
    torch.testing.assert_close(both[0:1], block(hidden[0:1], table(shifted[0])))
    torch.testing.assert_close(both[1:2], block(hidden[1:2], table(shifted[1])))


def test_norms_compute_in_fp32_whatever_the_weights_are() -> None:
    norm = RMSNorm(64, 1e-6).to(torch.bfloat16)
    hidden = torch.randn(4, 64).to(torch.bfloat16)
    exact = hidden.double() * torch.rsqrt(hidden.double().pow(2).mean(-1, keepdim=True) + 1e-6)
    assert norm(hidden).dtype == torch.bfloat16
    torch.testing.assert_close(norm(hidden), exact.to(torch.bfloat16), rtol=0.0, atol=0.0)


def test_rotary_angles_stay_fp32_in_a_bf16_model(small_model: Callable[..., Yuan]) -> None:
    model = small_model().to(torch.bfloat16)
    cosine, sine = model.rotary(torch.tensor([47]))
    assert cosine.dtype == sine.dtype == torch.float32
    assert cosine[0, 0].item() == pytest.approx(torch.tensor(47.0).cos().item(), abs=1e-6)


@pytest.mark.parametrize("positions", [[0, 48], [-1]])
def test_a_position_outside_the_context_is_refused_with_the_numbers(
    positions: list[int], small_config: Callable[..., YuanConfig]
) -> None:
    with pytest.raises(ValueError, match=rf"position {positions[-1]} is not in 0\.\.47"):
        RotaryTable(small_config())(torch.tensor(positions))


def test_a_sequence_longer_than_the_context_is_refused_with_both_numbers(small_model: Callable[..., Yuan]) -> None:
    with pytest.raises(ValueError, match="sequence of 49 tokens is longer than max_position_embeddings 48"):
        small_model()(tokens(1, 49))


def test_an_empty_sequence_is_refused(small_model: Callable[..., Yuan]) -> None:
    with pytest.raises(ValueError, match="holds no token"):
        small_model()(tokens(1, 0))


def test_a_model_that_has_decoded_can_still_be_trained(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    with torch.inference_mode():
        model(tokens(1, 4))
    model(tokens(1, 4)).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_a_block_are_those_of_its_formulas_in_torchs_own_operations(
    dtype: torch.dtype, small_model: Callable[..., Yuan]
) -> None:
    block, table = small_model(localized_filtering=False).layers[0], RotaryTable(small_model().config)
    attention, mlp = block.self_attn, block.mlp
    cosine, sine = table(torch.arange(9))

    def normed(norm: RMSNorm, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden.float(), (24,), norm.weight.float(), norm.eps).to(hidden.dtype)

    def rotated(heads: Tensor) -> Tensor:
        swapped = torch.cat((-heads[..., 4:], heads[..., :4]), dim=-1)
        return heads * cosine.to(dtype) + swapped * sine.to(dtype)

    def by_formulas(hidden: Tensor) -> Tensor:
        inner = normed(block.input_layernorm, hidden)
        fused = attention.qk_proj(inner).view(2, 9, 3, 16).transpose(1, 2)
        values = attention.v_proj(inner).view(2, 9, 3, 8).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            rotated(fused[..., :8]), rotated(fused[..., 8:]), values, is_causal=True
        )
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).reshape(2, 9, 24))
        inner = normed(block.post_attention_layernorm, hidden)
        return hidden + mlp.down_proj(functional.silu(mlp.up_proj(inner)) * mlp.gate_proj(inner))

    block.to(dtype)
    start = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    found: list[dict[str, Tensor]] = []
    for function in (by_formulas, lambda hidden: block(hidden, (cosine, sine))):
        block.zero_grad()
        hidden = start.clone().requires_grad_()
        function(hidden).float().square().sum().backward()
        gradients = {"input": hidden.grad, **{name: part.grad for name, part in block.named_parameters()}}
        found.append({name: part for name, part in gradients.items() if part is not None})
    bound = 1e-5 if dtype == torch.float32 else 3e-2
    assert len(found[0]) == len(found[1]) == 9
    for name, wanted in found[0].items():
        assert (found[1][name] - wanted).norm() <= bound * wanted.norm(), name
