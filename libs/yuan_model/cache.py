"""What decoding keeps of the tokens it has seen, so that each is computed once.

Per layer: keys (already rotated) and values, and the localized filter's (u_{t-1}, a_{t-1}), which are zeros at the
start, so that a first chunk needs no special step. Here it is one rectangle of equally long sequences; sequences of
all lengths in one step are in `paged.py`.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from yuan_model.causal import attend
from yuan_model.config import YuanConfig


class LayerPast(Protocol):
    """What a block asks of its past; it is told of every new token, once."""

    def steps_before(self, place: int, steps_bsi: Tensor) -> Tensor:
        """Returns for each new step of the filter the step before it, [b, s, i].

        Args:
            place: which of the filter's two inputs: 0 is u, 1 is a.
            steps_bsi: the new steps.
        """
        ...

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, segments_bk: Tensor | None) -> Tensor:
        """Adds the new tokens' keys and values and returns attention over all, [b, n, s, d] as the queries."""
        ...


def steps_before(place: int, steps_bsi: Tensor) -> Tensor:
    """Returns for each step the one before it where there is no past: zeros come first."""
    del place
    return torch.cat((torch.zeros_like(steps_bsi[:, :1]), steps_bsi[:, :-1]), dim=1)


@dataclass
class LayerCache:
    """One layer's past.

    Attributes:
        length: tokens held.
    """

    length: int = 0
    _last_steps: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    _keys_bnkd: Tensor | None = None
    _values_bnkd: Tensor | None = None

    def steps_before(self, place: int, steps_bsi: Tensor) -> Tensor:
        """Returns for each new step the one before it; see `LayerPast`."""
        last_b1i = self._last_steps.get(place)
        self._last_steps[place] = steps_bsi[:, -1:]
        if last_b1i is None:
            return steps_before(place, steps_bsi)
        return torch.cat((last_b1i, steps_bsi[:, :-1]), dim=1)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, segments_bk: Tensor | None) -> Tensor:
        """Adds keys and values and returns attention over all; see `LayerPast`."""
        return attend(queries, *self.append(keys, values), segments_bk)

    def append(self, keys_bnsd: Tensor, values_bnsd: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values of new tokens and returns those of all tokens, [b, n, length, d] each."""
        end = self.length + keys_bnsd.shape[2]
        self._keys_bnkd = _room(self._keys_bnkd, keys_bnsd, self.length, end)
        self._values_bnkd = _room(self._values_bnkd, values_bnsd, self.length, end)
        self._keys_bnkd[:, :, self.length : end] = keys_bnsd
        self._values_bnkd[:, :, self.length : end] = values_bnsd
        self.length = end
        return self._keys_bnkd[:, :, :end], self._values_bnkd[:, :, :end]


class DecodeCache:
    """The past of one batch through all layers; starts empty and grows with every forward.

    Attributes:
        layers: one cache a layer, in order.
        segments_bk: document numbers of all tokens held, where attention resets at `<eod>`.
    """

    def __init__(self, config: YuanConfig) -> None:
        self.layers = [LayerCache() for _ in range(config.num_hidden_layers)]
        self.segments_bk: Tensor | None = None
        self._documents_begun: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    def append_segments(self, segments_bs: Tensor, begun_b1: Tensor) -> Tensor:
        """Adds new tokens' document numbers, counted from their chunk's start, and returns all of them.

        Args:
            segments_bs: numbers as `document_segments` gives them for the chunk alone.
            begun_b1: how many `<eod>` the chunk holds, by which the next chunk's numbers are raised.
        """
        if self.segments_bk is None or self._documents_begun is None:
            self.segments_bk, self._documents_begun = segments_bs, begun_b1
        else:
            self.segments_bk = torch.cat((self.segments_bk, segments_bs + self._documents_begun), dim=1)
            self._documents_begun = self._documents_begun + begun_b1
        return self.segments_bk


def _room(held: Tensor | None, new: Tensor, length: int, needed: int) -> Tensor:
    """Returns storage for `needed` tokens with the first `length` kept; doubles, so that appending stays cheap."""
    if held is not None and held.shape[2] >= needed:
        return held
    batch, heads, _, dim = new.shape
    roomier = new.new_empty(batch, heads, max(needed, 2 * length), dim)
    if held is not None:
        roomier[:, :, :length] = held[:, :, :length]
    return roomier
