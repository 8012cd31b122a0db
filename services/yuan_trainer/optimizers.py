"""The optimizers that a run can have, from libraries that keep them: torch's AdamW and Muon.

An 8-bit one is not among them. torchao's AdamW8bit quantizes the moments in blocks inside a tensor subclass that cannot
be narrowed, and a training state is made of each parameter's own piece of the moments: it would not resume.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from yuan_manifest.schema import OptimizerSection

Named = Iterable[tuple[str, nn.Parameter]]


def make_optimizer(named_parameters: Named, section: OptimizerSection) -> torch.optim.Optimizer:
    """Returns the optimizer of a manifest's section; parameters that are not trained are left out.

    An object, since DeepSpeed compiles its own AdamW (85 s) when asked for one by name.

    Args:
        named_parameters: of a module, each once. Matrices of blocks are told from the embedding by their name.
        section: of the manifest.
    """
    named = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    if section.name != "muon":
        return _adamw([parameter for _, parameter in named], section)
    matrices = [parameter for name, parameter in named if parameter.dim() == 2 and "embed_tokens" not in name]
    by_muon = {id(parameter) for parameter in matrices}
    return MuonWithAdamW(matrices, [parameter for _, parameter in named if id(parameter) not in by_muon], section)


def _adamw(parameters: list[nn.Parameter], section: OptimizerSection) -> torch.optim.AdamW:
    """Returns AdamW; norms and biases are not decayed. The fused one runs on the processor and on CUDA."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": section.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],  # ZeRO flattens every group, none may be empty
        lr=section.lr,
        betas=(section.betas[0], section.betas[1]),
        eps=section.eps,
        fused=True,
    )


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of blocks, AdamW for all else, behind one list of groups and one state.

    Muon makes whole matrices orthogonal, so no rank may hold a slice of one: ZeRO 0, no tensor parallelism. Its step is
    scaled to the size of AdamW's (arXiv 2502.16982), so that one learning rate and one weight decay do for both.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], section: OptimizerSection) -> None:
        muon = torch.optim.Muon(
            [{"params": matrices}], lr=section.lr, weight_decay=section.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._parts: list[torch.optim.Optimizer] = [muon, _adamw(others, section)]
        super().__init__([*matrices, *others], {"lr": section.lr})
        # The same dictionaries: a learning rate set here is one that the parts see, and so is a state read back.
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        for part in self._parts:
            part.state = self.state
        for matrix in matrices:
            momentum = torch.zeros_like(matrix)
            # A training state knows AdamW's names: Muon's momentum goes by that of the first moment; it has no second.
            self.state[matrix] = {
                "step": torch.zeros((), dtype=torch.float32, device=matrix.device),
                "momentum_buffer": momentum,
                "exp_avg": momentum,
                "exp_avg_sq": torch.zeros_like(matrix),
            }

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of both."""
        loss = None if closure is None else closure()
        for part in self._parts:
            part.step()
        return loss
