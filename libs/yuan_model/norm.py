"""RMSNorm, computed in fp32 whatever the dtype around it."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last dimension and scales by a weight.

    Shapes: [..., size] -> [..., size] in the input's dtype.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the normalised input."""
        normed = functional.rms_norm(hidden.float(), self.weight.shape, self.weight.float(), self.eps)
        return normed.to(hidden.dtype)
