"""The compiled parts of a training step compute what torch's operations compute, in values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from yuan_model import RMSNorm, YuanConfig, blockwise_cross_entropy
from yuan_model.block import FeedForward
from yuan_model.native import training
from yuan_model.processor_attention import attend_in_blocks
from yuan_model.rotary import rotate_pairs

needs_compiler = pytest.mark.skipif(training.why_not() is not None, reason=f"not compiled: {training.why_not()}")
CONFIG = YuanConfig(64, 32, 1, 2, 48, 64)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"], autouse=True)
def threads(request: pytest.FixtureRequest) -> object:
    """Sets torch's threads for a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def normed(hidden: Tensor, weight: Tensor) -> Tensor:
    norm = RMSNorm(weight.numel(), 1e-6)
    del norm.weight
    norm.weight = weight  # type: ignore[assignment]
    return norm(hidden)


def fed_forward(hidden: Tensor, up: Tensor, gate: Tensor) -> Tensor:
    layer = FeedForward(CONFIG).to(hidden.dtype)
    weights = {"up_proj.weight": up, "gate_proj.weight": gate, "down_proj.weight": drawn(32, 48).to(hidden.dtype)}
    return torch.func.functional_call(layer, weights, hidden)


def rotated(pairs: Tensor, angles: Tensor) -> Tensor:
    angles = torch.cat((angles, angles), -1)
    return torch.stack(rotate_pairs(pairs, (angles.cos(), angles.sin()), 32))


def mean_loss(hidden: Tensor, weight: Tensor, *, masked: bool) -> Tensor:
    labels = torch.arange(18).view(2, 9) * 7 % 160
    mask = labels.remainder(3).float() if masked else None
    return blockwise_cross_entropy(hidden, weight, labels, mask, 4)


Case = tuple[Callable[..., Tensor], list[Tensor]]
CASES: dict[str, Case] = {
    "norm": (normed, [drawn(2, 5, 48), drawn(48)]),
    "gated feed-forward": (fed_forward, [drawn(2, 5, 32), drawn(48, 32), drawn(48, 32) + 1]),
    "rotation": (lambda pairs: rotated(pairs, drawn(5, 16) * 9), [drawn(2, 5, 3 * 64)]),
    "rotation, positions of each row": (lambda pairs: rotated(pairs, drawn(2, 5, 16) * 9), [drawn(2, 5, 3 * 64)]),
    "attention, several blocks": (attend_in_blocks, [drawn(2, 3, 272, 8 + i)[..., :8].contiguous() for i in range(3)]),
    "loss": (lambda *inputs: mean_loss(*inputs, masked=False), [drawn(2, 9, 16), drawn(160, 16)]),
    "masked loss": (lambda *inputs: mean_loss(*inputs, masked=True), [drawn(2, 9, 16), drawn(160, 16)]),
}


def values_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    given = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    output = function(*given)
    upstream = drawn(*output.shape, 1).squeeze(-1).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, given, upstream)]


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_a_compiled_part_is_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, inputs = CASES[name]
    called: list[str] = []
    call = training._call
    monkeypatch.setattr(training, "_call", lambda name, *a, **k: (called.append(name), call(name, *a, **k)))
    compiled = values_and_gradients(function, inputs, torch.float32)
    in_bf16 = values_and_gradients(function, [tensor.bfloat16() for tensor in inputs], torch.bfloat16)
    assert called, "the library must really have been asked"
    monkeypatch.setattr(training, "why_not", lambda: "not wanted here")
    called.clear()
    by_torch = values_and_gradients(function, inputs, torch.float32)
    of_rounded = values_and_gradients(function, [tensor.bfloat16().float() for tensor in inputs], torch.float32)
    torch_in_bf16 = values_and_gradients(function, [tensor.bfloat16() for tensor in inputs], torch.bfloat16)
    assert not called
    for ours, theirs in zip(compiled, by_torch, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))
    for ours, plain, exact in zip(in_bf16, torch_in_bf16, of_rounded, strict=True):
        assert ours.dtype == plain.dtype
        error, allowed = ((found.float() - exact).abs().mean() for found in (ours, plain))
        assert error <= 1.2 * allowed + 1e-6 * exact.abs().max()


@needs_compiler
def test_what_is_not_finite_is_seen_in_the_loss() -> None:
    hidden, weight = drawn(2, 9, 16), drawn(160, 16).requires_grad_()
    hidden[1, 3] = torch.nan
    assert torch.isnan(mean_loss(hidden, weight, masked=False))


@needs_compiler
def test_a_label_outside_the_vocabulary_is_refused() -> None:
    weight = drawn(160, 16).requires_grad_()
    with pytest.raises(IndexError, match=r"label.*0\.\.159"):
        blockwise_cross_entropy(drawn(1, 2, 16), weight, torch.tensor([[3, 160]]))


def test_sizes_that_do_not_fill_vectors_are_torchs_work() -> None:
    hidden, weight = drawn(3, 10).requires_grad_(), torch.ones(10)
    expected = functional.rms_norm(hidden, (10,), weight, 1e-6)
    torch.testing.assert_close(normed(hidden, weight), expected)
