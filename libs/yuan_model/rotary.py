"""Rotary position embedding: rotate-half over the whole head dimension (arXiv 2104.09864).

Angles are computed in fp32 on the processor and kept in fp32, also for a bf16 model; attention casts only their
cosine and sine. That is variant (b) of the three that Yuan's published code has (golden/MEGATRON_LAYOUT.md 5.6), the
one of `from_pretrained(torch_dtype=bfloat16)`: bf16 angles would round every position above 256.
"""

import torch
from torch import Tensor

from yuan_model.config import YuanConfig

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine, each [sequence, head_dim] or [batch, sequence, head_dim], fp32."""


class RotaryTable:
    """Cosine and sine for every position below max_position_embeddings, made once a device.

    Deliberately no module: it has no parameters, and nothing of it belongs in a state dict.
    """

    def __init__(self, config: YuanConfig) -> None:
        self.length = config.max_position_embeddings
        self.head_dim = config.head_dim
        self.theta = config.rope_theta
        self._tables: dict[torch.device, Rotary] = {}

    def __call__(self, positions: Tensor) -> Rotary:
        """Returns (cosine, sine) at int64 positions [...] as [..., head_dim] fp32.

        Raises:
            ValueError: if a position is negative or not below max_position_embeddings.
        """
        if positions.numel():
            self._check(int(positions.min()), int(positions.max()))
        cosine, sine = self._table(positions.device)
        return cosine[positions], sine[positions]

    def between(self, start: int, stop: int, device: torch.device) -> Rotary:
        """Returns (cosine, sine) of positions start..stop-1 as [stop - start, head_dim], without a copy.

        Raises:
            ValueError: if a position is negative or not below max_position_embeddings.
        """
        if stop > start:
            self._check(start, stop - 1)
        cosine, sine = self._table(device)
        return cosine[start:stop], sine[start:stop]

    def _check(self, lowest: int, highest: int) -> None:
        if lowest < 0 or highest >= self.length:
            wrong = lowest if lowest < 0 else highest
            raise ValueError(f"position {wrong} is not in 0..{self.length - 1} (max_position_embeddings {self.length})")

    def _table(self, device: torch.device) -> Rotary:
        if device not in self._tables:
            with torch.inference_mode(False):  # a table first made while decoding must serve training too
                self._tables[device] = self._make(device)
        return self._tables[device]

    def _make(self, device: torch.device) -> Rotary:
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device="cpu") / self.head_dim
        positions = torch.arange(self.length, dtype=torch.float32, device="cpu")
        angles = torch.outer(positions, 1.0 / self.theta**exponents)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(device), angles.sin().to(device)


def apply_rotary(heads_bnsd: Tensor, rotary: Rotary) -> Tensor:
    """Rotates queries or keys [batch, heads, sequence, head_dim] to their positions; same shape and dtype."""
    cosine, sine = (part.to(heads_bnsd.dtype) for part in rotary)
    if cosine.dim() == 3:
        cosine, sine = cosine.unsqueeze(1), sine.unsqueeze(1)
    first, second = heads_bnsd.chunk(2, dim=-1)
    return heads_bnsd * cosine + torch.cat((-second, first), dim=-1) * sine
