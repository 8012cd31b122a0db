"""How ranks share one model: the grid of ranks, the division of layers into stages, and what a division costs.

What is exported are values and arithmetic, and needs no torch: nothing of it starts a process, opens a connection or
knows of jobs. The tensor-parallel layers are in `yuan_parallel.tensor`.
"""

from yuan_parallel.grid import Grid
from yuan_parallel.plan import ParallelPlan, plan_parallel, resolve_division
from yuan_parallel.prediction import Prediction
from yuan_parallel.stages import StagePlan, uniform_stages
from yuan_parallel.training import Devices, Division, Network, Training, training_of

__all__ = [
    "Devices",
    "Division",
    "Grid",
    "Network",
    "ParallelPlan",
    "Prediction",
    "StagePlan",
    "Training",
    "plan_parallel",
    "resolve_division",
    "training_of",
    "uniform_stages",
]
