"""What a block keeps for its backward pass, and what it computes again from its input instead.

`none` keeps all. `selective` computes attention alone again, from the projected queries, keys and values: cheap, and
what it does not keep grows with the square of the sequence wherever a mask or dropout is at work. `full` keeps a
block's input only, and computes the rest again, for a third more time.
"""

from collections.abc import Callable
from typing import Literal, TypeVar, cast

import torch
from torch.utils import checkpoint

Recompute = Literal["none", "selective", "full"]
Result = TypeVar("Result")


def recomputed(function: Callable[..., Result], *arguments: object, draws: bool) -> Result:
    """Returns function(*arguments), of which nothing but the arguments is kept for the backward pass.

    Args:
        function: what to call, now and, with the same arguments, in the backward pass.
        arguments: tensors and what else it takes.
        draws: it draws random numbers (dropout), which must be the same the second time.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    again = cast("Callable[..., Result]", checkpoint.checkpoint)  # pyright: ignore[reportUnknownMemberType]
    return again(function, *arguments, use_reentrant=False, preserve_rng_state=draws)
