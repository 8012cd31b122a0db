"""What is computed again changes no gradient and keeps less; dropout drops the same the second time."""

from collections.abc import Callable

import pytest
import torch
from tests.yuan_model.conftest import EOD
from torch import Tensor

from yuan_model import Yuan
from yuan_model.recompute import Recompute

MODES: tuple[Recompute, ...] = ("none", "selective", "full")


def tokens() -> Tensor:
    return torch.randint(0, 40, (2, 32), generator=torch.Generator().manual_seed(0))


def train_once(model: Yuan, mode: Recompute, hidden_dropout: float = 0.0, dropout: float = 0.0) -> dict[str, Tensor]:
    """Returns the logits and all gradients of one pass, drawn from the same seed each time."""
    for block in model.layers:
        block.recompute, block.hidden_dropout, block.self_attn.dropout = mode, hidden_dropout, dropout
    model.zero_grad()
    torch.manual_seed(5)
    logits = model.train()(tokens())
    logits.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients}


def kept_bytes(model: Yuan, mode: Recompute) -> int:
    """Returns the bytes of the activations that one forward pass keeps; each piece of memory counts once."""
    for block in model.layers:
        block.recompute = mode
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model.train()(tokens())
    del logits
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("mode", ["selective", "full"])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("hidden_dropout", "dropout"), [(0.0, 0.0), (0.3, 0.2)])
def test_logits_and_gradients_are_those_of_keeping_all(
    mode: Recompute, reset: bool, hidden_dropout: float, dropout: float, small_model: Callable[..., Yuan]
) -> None:
    model = small_model(attention_reset_at_eod=reset)
    kept = train_once(model, "none", hidden_dropout, dropout)
    again = train_once(model, mode, hidden_dropout, dropout)
    torch.testing.assert_close(again, kept, atol=1e-6, rtol=1e-5)


def test_each_mode_keeps_less_than_the_one_before(small_model: Callable[..., Yuan]) -> None:
    model = small_model(attention_reset_at_eod=True)
    none, selective, full = (kept_bytes(model, mode) for mode in MODES)
    assert full < none / 4
    assert full < selective < none


def test_dropout_changes_training_and_leaves_evaluation_alone(small_model: Callable[..., Yuan]) -> None:
    model = small_model()
    plain = train_once(model, "none")["logits"]
    for settings in ({"hidden_dropout": 0.3}, {"dropout": 0.3}):
        dropped = train_once(model, "none", **settings)["logits"]
        assert (dropped - plain).abs().max() > 0.01
        torch.testing.assert_close(dropped, train_once(model, "none", **settings)["logits"], atol=0.0, rtol=0.0)
        torch.testing.assert_close(model.eval()(tokens()), plain)


def test_a_model_that_recomputes_decodes_as_ever(small_model: Callable[..., Yuan]) -> None:
    model = small_model(attention_reset_at_eod=True)
    ids = torch.tensor([[5, EOD, 6, 7]])
    expected = model(ids)
    for mode in MODES:
        for block in model.layers:
            block.recompute = mode
        with torch.inference_mode():
            torch.testing.assert_close(model(ids), expected)
