"""What is handed to others so that they start a run's agents: a command, a batch script, a Kubernetes manifest.

Pure text from values: nothing is started, submitted or looked up here, and what an agent does is not known
(`yuan_trainer.host`). So a user can read what would be submitted before anything is.
"""

from yuan_launch.agents import Agents
from yuan_launch.hostfile import HostLine, parse_hostfile, read_hostfile, runner_command
from yuan_launch.kubernetes import kubernetes_manifest, kubernetes_name
from yuan_launch.rendering import render
from yuan_launch.slurm import slurm_script

__all__ = [
    "Agents",
    "HostLine",
    "kubernetes_manifest",
    "kubernetes_name",
    "parse_hostfile",
    "read_hostfile",
    "render",
    "runner_command",
    "slurm_script",
]
