"""How ranks share one model: the grid of ranks, the division of layers into stages, and what a division costs.

Values only: nothing here starts a process, opens a connection or knows of jobs.
"""

from yuan_parallel.cost import layer_flops_per_token, logits_flops_per_token
from yuan_parallel.grid import Grid
from yuan_parallel.plan import ParallelPlan, plan_parallel
from yuan_parallel.stages import StagePlan, balanced_stages, uniform_stages

__all__ = [
    "Grid",
    "ParallelPlan",
    "StagePlan",
    "balanced_stages",
    "layer_flops_per_token",
    "logits_flops_per_token",
    "plan_parallel",
    "uniform_stages",
]
