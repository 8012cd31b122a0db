"""Rotary position embedding: rotate-half over the whole head dimension (arXiv 2104.09864).

Tables are made on the processor and kept in fp32, also for a bf16 model; attention casts their cosine and sine. What
they are computed in is `YuanConfig.rope_precision`, since the published code computes three things, depending on how
its model came to be bf16 (golden/MEGATRON_LAYOUT.md 5.6):

- `fp32` (there: (b), `from_pretrained(torch_dtype=bfloat16)`): positions, frequencies, angles and tables in fp32.
- `bf16` (there: (a), Megatron's `--bf16` and `model.bfloat16()`): all of them in bf16. A bf16 number has 8 significant
  bits, so that positions above 256 share angles with their neighbours. What was trained in bf16 was trained so.
- `bf16_frequencies` (there: (c), as (b) from a file with frequencies in bf16): angles drift with the position.
"""

from typing import Any

import torch
from torch import Tensor

from yuan_model.config import YuanConfig
from yuan_model.native import training

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
        self.precision = config.rope_precision
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
        frequencies = 1.0 / self.theta**exponents
        if self.precision == "bf16":
            positions, frequencies = positions.bfloat16(), frequencies.bfloat16()
        elif self.precision == "bf16_frequencies":
            frequencies = frequencies.bfloat16().float()
        angles = torch.outer(positions, frequencies)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().float().to(device), angles.sin().float().to(device)


def rotate_pairs(pairs_bse: Tensor, rotary: Rotary, head_dim: int) -> tuple[Tensor, Tensor]:
    """Rotates queries and keys to their positions.

    Args:
        pairs_bse: per head its query, then its key: [b, s, heads * 2 * head_dim].
        rotary: of the positions.
        head_dim: width of one head.

    Returns:
        Queries and keys, each [b, heads, s, head_dim], of one dtype with the pairs.
    """
    half = head_dim // 2
    parts = (part[..., :half].to(pairs_bse.dtype) for part in rotary)  # both halves of a head turn by the same angles
    cosine, sine = (part.unsqueeze(1) if part.dim() == 3 else part for part in parts)
    return _Rotation.apply(pairs_bse, cosine, sine, head_dim)  # type: ignore[no-any-return]


class _Rotation(torch.autograd.Function):
    """Rotation of halves: written once, straight to where attention wants it; keeps nothing but the tables."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, pairs_bse: Tensor, cosine: Tensor, sine: Tensor, head_dim: int
    ) -> tuple[Tensor, Tensor]:
        batch, length, width = pairs_bse.shape
        ctx.shape = (batch, length, width // (2 * head_dim), 2, head_dim)
        ctx.compiled = ctx.needs_input_grad[0] and training.usable(pairs_bse, head_dim // 2)
        if ctx.compiled:
            cosine, sine = (part.squeeze(1).float() for part in (cosine, sine))
            ctx.save_for_backward(cosine, sine)
            rotated = pairs_bse.new_empty(2, batch, ctx.shape[2], length, head_dim)
            training.rotate(pairs_bse.contiguous().view(ctx.shape), rotated, cosine, sine, back=False)
            return rotated[0], rotated[1]
        ctx.save_for_backward(cosine, sine)
        pairs_2bnsd = pairs_bse.view(ctx.shape).permute(3, 0, 2, 1, 4)
        rotated = torch.empty(pairs_2bnsd.shape, dtype=pairs_bse.dtype, device=pairs_bse.device)
        _rotate(pairs_2bnsd, cosine, sine, rotated)
        return rotated[0], rotated[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, queries_bnsd: Tensor, keys_bnsd: Tensor
    ) -> tuple[Tensor, None, None, None]:
        cosine, sine = ctx.saved_tensors
        gradient = torch.empty(ctx.shape, dtype=keys_bnsd.dtype, device=keys_bnsd.device)
        if ctx.compiled:
            training.rotate(gradient, (queries_bnsd.contiguous(), keys_bnsd.contiguous()), cosine, sine, back=True)
            return gradient.flatten(2), None, None, None
        for place, heads_bnsd in enumerate((queries_bnsd, keys_bnsd)):
            _rotate(heads_bnsd, cosine, -sine, gradient[:, :, :, place].transpose(1, 2))  # the inverse turns back
        return gradient.flatten(2), None, None, None


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor, out: Tensor) -> None:
    """Writes heads [..., s, d] turned by angles [s, d/2] into `out`."""
    half = heads.shape[-1] // 2
    first, second = heads[..., :half], heads[..., half:]
    torch.mul(first, cosine, out=out[..., :half]).addcmul_(second, sine, value=-1.0)
    torch.mul(second, cosine, out=out[..., half:]).addcmul_(first, sine)
