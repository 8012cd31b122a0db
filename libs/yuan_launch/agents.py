"""The agents of a run: one on each host, all with the same command but for the host's number."""

import sys
from dataclasses import dataclass
from pathlib import Path

from yuan_manifest import rank_count
from yuan_manifest.schema import Device, Topology

MODULE = "yuan_trainer.host"


@dataclass(frozen=True)
class Agents:
    """What is to be started.

    Attributes:
        name: of the job.
        folder: the launch folder, at this path on every host.
        hosts: how many.
        devices: of each.
        cuda: whether ranks compute on CUDA devices.
        port: at which the first host's ranks wait.
        python: the interpreter on every host.
    """

    name: str
    folder: Path
    hosts: int
    devices: int
    cuda: bool
    port: int
    python: str = sys.executable

    def arguments(self, index_variable: str, address: str) -> list[str]:
        """Returns an agent's arguments: its number stands in an environment variable, the address is host 0's."""
        return [str(self.folder), "--index-from", index_variable, "--address", address]


def placeholder_agents(name: str, topology: Topology, home: Path) -> Agents:
    """Returns the agents of a run that does not exist yet, for a look at what would be submitted."""
    devices = topology.nodes.devices
    return Agents(
        name=name,
        folder=home / "runs" / f"{name}-ID" / "launch-N",
        hosts=-(-rank_count(topology) // devices),
        devices=devices,
        cuda=topology.nodes.device == Device.cuda,
        port=topology.port,
    )
