"""The block-wise loss is the plain loss, in value and gradients, without the logits of all tokens."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from yuan_model import blockwise_cross_entropy, cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    hidden: Tensor
    weight: Tensor
    labels: Tensor

    def plain(self, mask: Tensor | None) -> Loss:
        return lambda hidden, weight: cross_entropy(hidden @ weight.t(), self.labels, mask)

    def by_blocks(self, mask: Tensor | None, block_tokens: int | None) -> Loss:
        return lambda hidden, weight: blockwise_cross_entropy(hidden, weight, self.labels, mask, block_tokens)

    def value_and_gradients(self, loss: Loss, factor: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight = (part.clone().requires_grad_() for part in (self.hidden, self.weight))
        value = loss(hidden, weight)
        (value * factor).backward()
        assert hidden.grad is not None
        assert weight.grad is not None
        return value.detach(), hidden.grad, weight.grad


def case(batch: int = 2, length: int = 7, width: int = 6, vocabulary: int = 19, seed: int = 0) -> Case:
    draw = torch.Generator().manual_seed(seed)
    return Case(
        torch.randn(batch, length, width, generator=draw),
        torch.randn(vocabulary, width, generator=draw),
        torch.randint(0, vocabulary, (batch, length), generator=draw),
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 23)),
    block_tokens=st.one_of(st.none(), st.integers(0, 30)),
    mask_kind=st.sampled_from(["none", "ones", "some", "weights", "zeros"]),
)
def test_it_is_the_plain_loss_at_any_block_size_under_any_mask(
    seed: int, sizes: tuple[int, int, int, int], block_tokens: int | None, mask_kind: str
) -> None:
    given_case = case(*sizes, seed=seed)
    drawn = torch.rand(given_case.labels.shape, generator=torch.Generator().manual_seed(seed))
    masks = {
        "none": None,
        "ones": torch.ones_like(drawn),
        "some": (drawn > 0.5).float(),
        "weights": drawn,
        "zeros": torch.zeros_like(drawn),
    }
    mask = masks[mask_kind]
    plain = given_case.value_and_gradients(given_case.plain(mask), factor=0.25)
    ours = given_case.value_and_gradients(given_case.by_blocks(mask, block_tokens), factor=0.25)
    torch.testing.assert_close(ours, plain, atol=2e-6, rtol=2e-5)


def test_logits_far_apart_overflow_nothing() -> None:
    given_case = case()
    far = Case(given_case.hidden * 300, given_case.weight, given_case.labels)
    ours = far.value_and_gradients(far.by_blocks(None, 3))
    torch.testing.assert_close(ours, far.value_and_gradients(far.plain(None)), atol=1e-3, rtol=1e-5)
    assert all(part.isfinite().all() for part in ours)


def test_in_bf16_it_is_as_near_to_fp32_as_the_plain_loss_and_gradients_keep_their_dtype() -> None:
    exact = case(2, 16, 8, 50)
    rounded = Case(exact.hidden.bfloat16(), exact.weight.bfloat16(), exact.labels)
    exact = Case(rounded.hidden.float(), rounded.weight.float(), exact.labels)
    wanted = exact.value_and_gradients(exact.plain(None))
    plain = rounded.value_and_gradients(rounded.plain(None))
    ours = rounded.value_and_gradients(rounded.by_blocks(None, 4))
    assert [part.dtype for part in ours] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for exact_part, plain_part, our_part in zip(wanted, plain, ours, strict=True):
        error = (our_part.float() - exact_part).norm()
        assert error <= 1.5 * (plain_part.float() - exact_part).norm() + 1e-6


def test_in_fp16_small_gradients_survive_until_the_loss_scale_reaches_them() -> None:
    draw = case(1, 4096, 4, 3)
    halves = Case(draw.hidden.half(), draw.weight.half(), draw.labels)
    scale = 4096.0
    _, found, _ = halves.value_and_gradients(halves.by_blocks(None, 512), scale)
    exact = Case(halves.hidden.float(), halves.weight.float(), draw.labels)
    _, wanted, _ = exact.value_and_gradients(exact.plain(None), scale)
    torch.testing.assert_close(found.float(), wanted, atol=2e-3, rtol=2e-3)


def test_only_what_is_asked_for_is_differentiated() -> None:
    given_case = case()
    weight = given_case.weight.clone().requires_grad_()
    loss = blockwise_cross_entropy(given_case.hidden, weight, given_case.labels, None, 4)
    loss.backward()
    torch.testing.assert_close(weight.grad, given_case.value_and_gradients(given_case.plain(None))[2])
    with torch.no_grad():
        assert not blockwise_cross_entropy(given_case.hidden, weight, given_case.labels, None, 4).requires_grad


def test_a_second_backward_pass_is_refused_and_not_wrong() -> None:
    given_case = case()
    hidden = given_case.hidden.clone().requires_grad_()
    loss = blockwise_cross_entropy(hidden, given_case.weight, given_case.labels, None, 4)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already taken"):
        loss.backward()


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.products = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor):
                self.numbers = max(self.numbers, part.numel())
        self.products += "mm" in str(function)
        return result


def test_no_tensor_is_larger_than_one_blocks_logits_or_the_weight() -> None:
    given_case = case(2, 64, 4, 100)
    with LargestTensor() as plain:
        given_case.value_and_gradients(given_case.plain(None))
    with LargestTensor() as ours:
        given_case.value_and_gradients(given_case.by_blocks(None, 8))
    assert plain.numbers == 128 * 100
    assert ours.numbers == 8 * 100


def test_positions_that_do_not_count_cost_no_products() -> None:
    given_case = case(2, 64, 4, 100)
    mask = torch.zeros(2, 64)
    mask[1, 60:] = 1
    with LargestTensor() as ours:
        given_case.value_and_gradients(given_case.by_blocks(mask, 8))
    assert ours.products == 3, "one block: its logits and two gradients"


@dataclass
class Group:
    """The tensor-parallel group as threads: what a collective of ranks does, between two barriers."""

    size: int
    barrier: threading.Barrier = field(init=False)
    slots: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=30)

    def all(self, rank: int, values: Tensor) -> Tensor:
        self.slots[rank] = values
        self.barrier.wait()
        together = torch.stack([self.slots[number] for number in range(self.size)])
        self.barrier.wait()
        return together


@dataclass(frozen=True)
class Shard:
    group: Group
    rank: int
    offset: int

    def sum(self, values: Tensor) -> Tensor:
        return self.group.all(self.rank, values).sum(dim=0)

    def max(self, values: Tensor) -> Tensor:
        return self.group.all(self.rank, values).amax(dim=0)


def test_divided_by_vocabulary_every_part_finds_the_whole_loss_and_its_own_gradients() -> None:
    given_case = case(2, 9, 6, 20)
    mask = (torch.arange(18).view(2, 9) % 3 > 0).float()
    value, hidden_gradient, weight_gradient = given_case.value_and_gradients(given_case.plain(mask))
    group, found = Group(2), {}

    def part(rank: int) -> None:
        rows = Case(given_case.hidden, given_case.weight[10 * rank : 10 * rank + 10], given_case.labels)
        shard = Shard(group, rank, 10 * rank)
        found[rank] = rows.value_and_gradients(
            lambda hidden, weight: blockwise_cross_entropy(hidden, weight, rows.labels, mask, 5, shard=shard)
        )

    ranks = [threading.Thread(target=part, args=(rank,)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    torch.testing.assert_close(found[0][0], value)
    torch.testing.assert_close(found[1][0], value)
    torch.testing.assert_close(found[0][1] + found[1][1], hidden_gradient)
    torch.testing.assert_close(torch.cat((found[0][2], found[1][2])), weight_gradient)
